"""A web application that answers one question, and asks it itself."""

from flask import Flask

app = Flask(__name__)


@app.get("/")
def index() -> str:
    return "it works"


if __name__ == "__main__":
    print(app.test_client().get("/").text)
