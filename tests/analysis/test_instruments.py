"""instruments.csv, whole, half-written and broken."""

import math

from vitbn.analysis.instruments import COLUMNS, layer_name, over_layers, read_instruments

TABLE = f"""{COLUMNS}
1,1,blocks.0,,gradient norm,3
1,1,blocks.1,,gradient norm,4
1,1,blocks.0,weights,gradient norm,2
9,1,blocks.0,attn_in,mean gap,0.5
9,1,blocks.0,ffn_hidden,mean gap,0.1
9,1,head,,gradient norm,7
19,2,blocks.0,attn_in,mean gap,0.4
19,2,,,sharpness,8
"""


def test_the_last_of_epoch_1_the_last_of_all_and_the_course_of_the_whole_network(tmp_path):
    path = tmp_path / "instruments.csv"
    path.write_text(TABLE + "29,3,blocks.0,attn_in,mea")  # a run that is writing
    measured = read_instruments(path)
    gap, sharpness = ("blocks.0", "attn_in", "mean gap"), ("", "", "sharpness")
    assert measured.first[gap] == 0.5 and measured.last[gap] == 0.4
    assert sharpness not in measured.first and measured.last[sharpness] == 8
    assert measured.courses == {
        "gradient norm": {1: math.hypot(3, 4), 9: 7}, "mean gap": {9: 0.3, 19: 0.4}, "sharpness": {19: 8},
    }  # fmt: skip
    assert over_layers(measured.first, "gradient norm", "") == {"1": 3, "2": 4, "head": 7}
    assert over_layers(measured.first, "mean gap") == {"1": 0.3}


def test_what_cannot_be_read_is_left_out_with_a_warning(tmp_path, caplog):
    assert read_instruments(tmp_path / "none.csv") is None and not caplog.messages
    for name, text in (("a", "step,value\n1,2\n"), ("b", f"{COLUMNS}\n1,1,x\n"), ("c", f"{COLUMNS}\n1,1,,,x,y\n"),
                       ("d", "")):  # fmt: skip
        (tmp_path / name).write_text(text)
        assert read_instruments(tmp_path / name) is None
        assert caplog.messages[-1].startswith(f"{tmp_path / name}: ") and caplog.messages[-1].endswith("; left out")


def test_blocks_are_counted_from_one():
    names = ("blocks.0", "vit.encoder.layer.11", "encoder.layers.encoder_layer_3", "layer1", "embedding", "m.head")
    assert [layer_name(name) for name in names] == ["1", "12", "4", "layer1", "embedding", "head"]
