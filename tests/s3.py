"""A real server that speaks S3 (moto), started for a test."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import boto3

from tests.conftest import free_port
from tests.waiting import eventually

SETTINGS = {
    "AWS_STORAGE_BUCKET_NAME": "files",
    "AWS_ACCESS_KEY_ID": "id",
    "AWS_SECRET_ACCESS_KEY": "hush-hush",
    "AWS_S3_REGION_NAME": "us-east-1",
    "AWS_S3_ADDRESSING_STYLE": "path",
    "MO_S3_SOURCE_BUCKETS": "partner",
}


def answers(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def an_s3() -> Iterator[str]:
    """The address of a server with three buckets, each with a file `some/file.txt` of the bucket's name."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: answers(port), 60)
            url = f"http://127.0.0.1:{port}"
            credentials = {"aws_access_key_id": "id", "aws_secret_access_key": "hush-hush", "region_name": "us-east-1"}
            client = boto3.client("s3", endpoint_url=url, **credentials)
            for bucket in ("files", "partner", "foreign"):
                client.create_bucket(Bucket=bucket)
                client.put_object(Bucket=bucket, Key="some/file.txt", Body=bucket.encode())
            yield url
        finally:
            process.terminate()
