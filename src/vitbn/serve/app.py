"""The Flask application: a page, POST /predict and GET /healthz. Errors are JSON, too."""

from collections.abc import Sequence

from flask import Flask, Response, jsonify, render_template, request
from werkzeug.exceptions import HTTPException

from vitbn.errors import InputError
from vitbn.serve.classifiers import DigitClassifier
from vitbn.serve.preprocess import as_mnist

MAX_BODY = 1_000_000  # bytes
HOSTS = ["127.0.0.1", "localhost"]  # another name for this server is a page elsewhere that rebinds its own
PLAIN = {
    400: f"the request is not for this server; open http://{HOSTS[0]} with the port that vitbn serve names",
    404: "there is nothing at this address; the page is at /",
    405: "this address takes POST with the bytes of an image, or the page is at /",
    413: f"the file is too large; at most {MAX_BODY:,} bytes are read",
}

HEADERS = {
    # Nothing from elsewhere, nothing inline
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def create_app(classifiers: Sequence[DigitClassifier]) -> Flask:
    """The application for these networks, which are loaded once and only read."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY  # Werkzeug looks at the announced length before it reads
    app.config["TRUSTED_HOSTS"] = HOSTS
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.get("/")
    def page() -> str:
        return render_template("index.html", classifiers=classifiers, max_body=MAX_BODY)

    @app.post("/predict")
    def predict() -> Response:
        digit = as_mnist(request.get_data(cache=False))  # raw, even if the content type calls it a form
        return jsonify(models=[classifier.classify(digit) for classifier in classifiers], seen=digit.tolist())

    @app.get("/healthz")
    def health() -> Response:
        return jsonify(status="ok", models=[classifier.name for classifier in classifiers])

    @app.errorhandler(InputError)
    def refuse(error: InputError) -> tuple[Response, int]:
        return jsonify(error=str(error)), 400

    @app.errorhandler(HTTPException)
    def explain(error: HTTPException) -> Response:
        response = Response(error.get_response().response, error.code, error.get_headers())
        response.data = jsonify(error=PLAIN.get(error.code or 0, error.description)).data
        response.content_type = "application/json"
        return response

    @app.after_request
    def secure(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    return app
