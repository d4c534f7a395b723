import pytest

from vitbn.models import merged_attention


@pytest.fixture
def merge(monkeypatch):
    """Overrides the cost rule: merge(True) merges every `MergedAttention`, merge(False) none."""

    def override(always):
        monkeypatch.setattr(merged_attention, "merged_is_cheaper", lambda *args, **options: always)

    return override
