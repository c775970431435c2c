"""The shipped storage drivers, through the kit, on real servers."""

from __future__ import annotations

import pytest
from tests.kernel.storage import servers

from engine_sdk.testing.conformance_storage import StorageConformance

PASSWORD = {"crypt-password": "env:ENGINE_TEST_CRYPT_PASSWORD"}


class OnServer(StorageConformance):
    """A driver on a server that runs for its checks."""

    server: object = None
    wrapper = ""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def place(cls, tmp_path_factory):
        directory = tmp_path_factory.mktemp(cls.__name__)
        with cls.server(directory) as place:
            options = {**place.options, **(PASSWORD if cls.wrapper else {})}
            cls.driver_options = {"url": cls.wrapper + place.url, **options}
            yield place


@pytest.fixture(scope="module", autouse=True)
def password():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGINE_TEST_CRYPT_PASSWORD", "correct horse battery staple")
        yield


class TestFile(StorageConformance):
    driver_name = "file"


class TestMemory(StorageConformance):
    driver_name = "memory"


class TestFsspecChain(StorageConformance):
    driver_name = "fsspec"
    driver_options = {"url": "dir::memory://kit/below"}  # noqa: RUF012


class TestHttp(OnServer):
    driver_name = "http"
    server = staticmethod(servers.web)


class TestSftp(OnServer):
    driver_name = "sftp"
    server = staticmethod(servers.sshd)


class TestS3(OnServer):
    driver_name = "s3"
    server = staticmethod(servers.seaweed)


class TestAzure(OnServer):
    driver_name = "azure"
    server = staticmethod(servers.azurite)


class TestGcs(OnServer):
    driver_name = "gcs"
    server = staticmethod(servers.google)


class TestCryptFile(StorageConformance):
    driver_name = "crypt"
    driver_options = PASSWORD


class TestCryptBase64Memory(StorageConformance):
    driver_name = "crypt"
    driver_options = {"url": "crypt::memory://kit/crypt", "filename-encoding": "base64", **PASSWORD}  # noqa: RUF012


class TestCryptS3(OnServer):
    driver_name = "crypt"
    server = staticmethod(servers.seaweed)
    wrapper = "crypt::"
