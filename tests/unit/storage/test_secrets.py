"""Secrets are named, never written: in options, texts, JSON, errors and tracebacks."""

from __future__ import annotations

import traceback

import pytest

from engine.plugins import Plugins
from engine.spec.errors import EngineError, Forbidden, InvalidParameter, NotFound
from engine.spec.options import parse_options
from engine.spec.secret import secret_fields
from engine.storage.secrets import LARGEST, Secrets
from engine.storage.stores import Stores
from engine_drivers.storage.azure import AzureOptions
from engine_drivers.storage.crypt.driver import CryptOptions
from engine_drivers.storage.gcs import GcsOptions
from engine_drivers.storage.generic import FsspecOptions
from engine_drivers.storage.http import HttpOptions
from engine_drivers.storage.s3 import S3Options
from engine_drivers.storage.sftp import SftpOptions
from engine_sdk.storage import Location, Translator, mask
from engine_sdk.storage.errors import plain

SECRET = "hunter2/with+signs and space"
DEAD = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (S3Options, {"access_key", "secret_key", "session_token"}),
        (GcsOptions, {"service_account", "token"}),
        (AzureOptions, {"account_key", "sas_token", "token"}),
        (SftpOptions, {"password", "private_key", "passphrase"}),
        (HttpOptions, {"password", "token"}),
        (FsspecOptions, {"credentials"}),
        (CryptOptions, {"crypt_password", "crypt_password2"}),
    ],
)
def test_every_credential_is_a_reference(model, names):
    assert set(secret_fields(model)) == names


@pytest.mark.parametrize("value", [SECRET, "env:", "env:1X", "file:relative", "vault:x", "secret:a/b", "file:/a\nb"])
def test_what_is_no_reference_is_refused_and_not_repeated(value):
    with pytest.raises(InvalidParameter) as caught:
        parse_options(S3Options, {"access-key": "env:A", "secret-key": value}, driver="s3")
    shown = "".join(traceback.format_exception(caught.value))
    assert value == "env:" or value not in shown


def test_sources(tmp_path):
    (tmp_path / "s").write_bytes(b"from a file\n")
    secrets = Secrets(environ={"A": "from the environment"}, engine_secrets=lambda name: f"own {name}".encode())
    assert secrets.read("env:A") == b"from the environment"
    assert secrets.read(f"file:{tmp_path}/s") == b"from a file\n"
    assert secrets.read("secret:db") == b"own db"


def test_only_given_secrets_are_read(tmp_path):
    options = parse_options(S3Options, {"access-key": "env:A", "secret-key": "env:B"}, driver="s3")
    assert Secrets(environ={"A": "a", "B": "b"}).of(options) == {"access_key": b"a", "secret_key": b"b"}


@pytest.mark.parametrize("reference", ["env:NOT_SET", "file:/no/such/file", "secret:unknown"])
def test_a_secret_that_is_not_there(reference):
    with pytest.raises(NotFound, match="secret"):
        Secrets(environ={}).read(reference)


def test_a_file_that_is_no_secret(tmp_path):
    (tmp_path / "large").write_bytes(bytes(LARGEST + 1))
    with pytest.raises(InvalidParameter, match="more than"):
        Secrets().read(f"file:{tmp_path}/large")


@pytest.mark.parametrize(
    ("url", "given"),
    [
        ("s3://b/p", {"endpoint-url": DEAD, "access-key": "env:S", "secret-key": "env:S"}),
        ("gcs://b/p", {"endpoint-url": DEAD, "token": "env:S"}),
        ("azure://c/p", {"endpoint-url": DEAD + "/a", "account": "a", "sas-token": "env:S"}),
        ("http://127.0.0.1:9/p", {"user": "u", "password": "env:S"}),
        ("sftp://u@127.0.0.1:9/p", {"password": "env:S"}),
        ("ftp://127.0.0.1:9/p", {"credentials": "env:J", "arguments": '{"port": 9}'}),
        ("crypt::s3://b/p", {"crypt-password": "env:S", "endpoint-url": DEAD, "anonymous": "true"}),
    ],
)
def test_no_secret_in_texts_and_errors(url, given):
    stores = Stores(Plugins(deadline=60))
    plan = stores.plan(url, {**given, "deadline": "1"})
    secrets = Secrets(environ={"S": SECRET, "J": f'{{"username": "u", "password": "{SECRET}"}}'})
    texts = [repr(plan), *(part.options.model_dump_json() for part in plan.parts)]
    try:
        store = stores.open(plan, secrets)
        texts.append(repr(store))
        store.put("key", b"1")
    except EngineError as err:
        texts += [str(err), "".join(traceback.format_exception(err))]
    assert len(texts) > 2
    assert not [text for text in texts if SECRET in text or "hunter2" in text]


def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(InvalidParameter) as caught:
        Location.parse("sftp://u:hunter2@host/p", driver="sftp")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidParameter) as caught:
        Stores(Plugins()).plan("s3://b", {"endpoint-url": "http://u:hunter2@host"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("spelling", [SECRET, "hunter2/with%2Bsigns%20and%20space", "hunter2%2Fwith%2Bsigns+and+space"])
def test_masking(spelling):
    assert "hunter2" not in mask(f"GET /?sig={spelling}&x=1", [SECRET.encode()])


def test_a_cause_that_shows_a_secret_is_not_chained():
    translate = Translator("x", [SECRET.encode()])
    with pytest.raises(Forbidden) as caught, translate("reading"):
        raise PermissionError(f"denied for {SECRET}")
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(Forbidden) as caught, translate("reading"):
        raise PermissionError("denied")
    assert isinstance(caught.value.__cause__, PermissionError)


def test_a_client_without_credentials_says_so():
    """It asks the cloud for those of the machine: an address that nobody knows, and often no answer at all."""
    with pytest.raises(Forbidden, match=r"no credentials were given.*engine driver show s3"), Translator("s3")("x"):
        raise TimeoutError("Error performing PUT http://169.254.169.254/latest/api/token: operation timed out")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            'Client error with status 404 Not Found: <?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchBucket'
            "</Code><Message>The bucket &quot;b&quot; does not exist</Message><BucketName>b</BucketName></Error>",
            'Client error with status 404 Not Found: NoSuchBucket: The bucket "b" does not exist',
        ),
        (
            "status 404 Not Found: \ufeff<?xml version='1.0'?><Error>\n  <Code>ContainerNotFound</Code>\n  <Message>"
            "The container is not there.\nRequestId:1\nTime:2</Message></Error> after 3 tries",
            "status 404 Not Found: \ufeff ContainerNotFound: The container is not there. after 3 tries",
        ),
        ("<html><body>Bad Gateway</body></html>", "its answer is XML that says nothing"),
        ("<Error><Code>SlowDown</Code><Message>Reduce your", "SlowDown: Reduce your"),
        ("1 < 2", "1 < 2"),
    ],
)
def test_the_xml_of_an_error_becomes_a_sentence(said, why):
    assert plain(said) == why
