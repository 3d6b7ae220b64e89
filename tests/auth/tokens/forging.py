"""Tokens that are wrong in one thing alone."""

import json
from base64 import urlsafe_b64encode

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mo_grpc.auth.tokens.rules import sealed_for
from mo_grpc.config import Settings
from mo_grpc.crypto import Vault
from tests.auth.users.conftest import rows
from tests.conftest import Stack
from tests.doors import Json


def header_of(token: str) -> Json:
    header: Json = jwt.get_unverified_header(token)
    return header


def payload_of(token: str) -> Json:
    payload: Json = jwt.decode(token, options={"verify_signature": False})
    return payload


def private_key(stack: Stack, kid: str) -> Ed25519PrivateKey:
    """The service's own key, for forging tokens that are wrong in one thing alone."""
    [(sealed,)] = rows(stack, "SELECT private_key FROM signing_keys WHERE kid = %s", kid)
    return Ed25519PrivateKey.from_private_bytes(vault(stack).decrypt(sealed, sealed_for(kid)))


def vault(stack: Stack) -> Vault:
    """The service's own vault."""
    return Vault(Settings.model_construct(mo_data_dir=stack.data_dir, secret_key=None))


def unsigned(token: str) -> str:
    head = urlsafe_b64encode(json.dumps({**header_of(token), "alg": "none"}).encode()).rstrip(b"=").decode()
    return f"{head}.{token.split('.')[1]}."
