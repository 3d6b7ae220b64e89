"""The store of files that the settings name."""

from mo_grpc.config import Settings
from mo_grpc.objects.base import ObjectStore
from mo_grpc.objects.local import LocalStore


def open_store(settings: Settings) -> ObjectStore:
    """S3 if a bucket is set, else a folder in the data folder."""
    if settings.aws_storage_bucket_name:
        # Imported here, because the extra `s3` is optional.
        from mo_grpc.objects.s3 import S3Store

        return S3Store(settings)
    return LocalStore(settings.mo_data_dir / "objects")
