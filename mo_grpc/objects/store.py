"""The store of files that the settings name."""

from mo_grpc.config import Settings
from mo_grpc.objects.base import ObjectStore
from mo_grpc.objects.local import LocalStore


def open_store(settings: Settings) -> ObjectStore:
    """S3 when a bucket is set, else a folder among the data."""
    if settings.aws_storage_bucket_name:
        # Only here, since the extra `s3` need not be installed.
        from mo_grpc.objects.s3 import S3Store

        return S3Store(settings)
    return LocalStore(settings.mo_data_dir / "objects")
