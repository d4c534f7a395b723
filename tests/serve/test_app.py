import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.serve.drawings import SEVEN, encoded, line
from tests.serve.fuzz import bodies
from vitbn.errors import InputError
from vitbn.models.factory import build
from vitbn.serve.app import MAX_BODY, create_app
from vitbn.serve.classifiers import DigitClassifier, load_classifiers
from vitbn.serve.preprocess import as_mnist
from vitbn.weights.network import load_network

DIGIT = encoded(line(*SEVEN))


def test_an_answer_is_what_the_networks_say_about_the_digit(client, two):
    answer = client.post("/predict", data=DIGIT)
    assert answer.status_code == 200 and answer.is_json
    digit = as_mnist(DIGIT)
    assert answer.json["seen"] == digit.tolist()
    for said, name, file in zip(answer.json["models"], ("ViT", "ViTBNFFN"), two, strict=True):
        network = load_network(file)
        with torch.no_grad():
            pixels = torch.from_numpy(digit)[None, None] / 255
            expected = network.net((pixels - 0.1) / 0.3)[0].softmax(0)
        assert said["name"] == name and said["digit"] == expected.argmax()
        assert said["probability"] == max(said["probabilities"])
        assert said["probabilities"] == pytest.approx(expected.tolist(), abs=1e-5)
        assert sum(said["probabilities"]) == pytest.approx(1, abs=1e-12)
        attention = said["attention"]
        assert attention["of"] == "CLS token"
        assert all(np.shape(attention[kind]) == (4, 4) for kind in ("last_block", "rollout"))


@pytest.mark.parametrize(
    "kind", ["image/png", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_the_content_type_does_not_matter(client, kind):
    assert client.post("/predict", data=DIGIT, content_type=kind).json["seen"] == as_mnist(DIGIT).tolist()


def test_networks_of_other_shapes_and_without_attention(make_weights):
    client = create_app(load_classifiers([str(make_weights(channels=3, image_size=35, pool="mean"))])).test_client()
    assert client.post("/predict", data=DIGIT).json["models"][0]["attention"]["of"] == "mean of all tokens"
    network = load_network(make_weights())
    options = {"image_size": 28, "channels": 1, "num_classes": 10}
    plain = build({"name": "mlp", "_target_": "torch.nn.Sequential"}, seed=0)
    plain.extend([torch.nn.Flatten(), torch.nn.Linear(28 * 28, 10)])
    classifier = DigitClassifier(
        type(network)(plain, network.labels, 28, 1, (0.0,), (1.0,), {"model": options}, network.source), "MLP", "", 0
    )
    assert create_app([classifier]).test_client().post("/predict", data=DIGIT).json["models"][0]["attention"] is None


def test_networks_for_anything_else_are_refused(make_weights):
    with pytest.raises(InputError, match="vit.safetensors: answers a, b, .*; only networks for the digits 0 to 9"):
        load_classifiers([str(make_weights("vit", labels=tuple("abcdefghij")))])


def test_healthz_and_the_page(client):
    assert client.get("/healthz").json == {"status": "ok", "models": ["ViT", "ViTBNFFN"]}
    page = client.get("/").text
    assert page.count('<article class="card') == 2 and "ViTBNFFN" in page and "vit.safetensors" in page
    assert "style=" not in page and "<style" not in page and "onclick" not in page and page.count("<script") == 1
    for asset in ("page.css", "page.js", "pad.js", "icon.svg"):
        found = client.get(f"/static/{asset}")
        assert found.status_code == 200 and "://" not in found.text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("path", ["/", "/healthz", "/predict", "/static/page.js", "/nowhere"])
def test_every_answer_has_the_security_headers(client, path):
    headers = client.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"


def refusal(answer):
    assert answer.is_json and list(answer.json) == ["error"] and "Traceback" not in answer.text
    return answer.status_code, answer.json["error"]


def test_refusals_are_json_with_a_reason(client):
    assert refusal(client.get("/nowhere")) == (404, "there is nothing at this address; the page is at /")
    wrong = client.get("/predict")
    assert refusal(wrong)[0] == 405 and "POST" in wrong.headers["Allow"]
    assert refusal(client.post("/predict")) == (400, "nothing was sent; send the bytes of an image file")
    assert refusal(client.post("/predict", data=b"seven"))[0] == 400
    empty = encoded(Image.new("L", (560, 560), 255))
    assert refusal(client.post("/predict", data=empty)) == (400, "there is no digit: no ink stands out from the ground")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "0.0.0.0"])
def test_a_page_elsewhere_cannot_rebind_its_name_to_this_server(client, host):
    for answer in (
        client.get("/healthz", headers={"Host": host}),
        client.post("/predict", headers={"Host": host}, data=DIGIT),
    ):
        assert refusal(answer)[0] == 400 and "open http://127.0.0.1" in answer.json["error"]
    for host in ("127.0.0.1:8000", "localhost:1"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200


class Untouchable(io.RawIOBase):
    def readable(self):
        return True

    def readinto(self, buffer):
        raise AssertionError("was read")


def test_too_long_a_body_is_refused_before_it_is_read(client):
    sent = {"wsgi.input": Untouchable(), "CONTENT_LENGTH": str(MAX_BODY + 1)}
    answer = client.post("/predict", environ_overrides=sent)
    assert refusal(answer) == (413, "the file is too large; at most 1,000,000 bytes are read")
    padded = DIGIT + b"\0" * (MAX_BODY - len(DIGIT))  # PNG ends before
    assert client.post("/predict", data=padded).status_code == 200
    assert refusal(client.post("/predict", data=padded + b"\0"))[0] == 413


def test_what_goes_wrong_inside_is_not_told(two):
    classifiers = load_classifiers(two)
    classifiers[0].network.net.embedding.register_forward_pre_hook(lambda *args: 1 / 0)
    client = create_app(classifiers).test_client()
    code, reason = refusal(client.post("/predict", data=DIGIT))
    assert code == 500 and "division" not in reason


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damage, as the server ignores them
def test_malformed_bodies_are_answered_200_or_400(client):
    counts = {200: 0, 400: 0}
    for number, body in enumerate(bodies(300)):
        answer = client.post("/predict", data=body)
        assert answer.status_code in counts, (number, answer.status_code)
        counts[answer.status_code] += 1
        json.loads(answer.text) if answer.status_code == 200 else refusal(answer)
    assert min(counts.values()) > 10  # some damage is survived, most is not
