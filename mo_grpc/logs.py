"""Structured logs on stderr: JSON for machines, coloured lines for people."""

import logging
import os
import sys

import structlog

from mo_grpc.config import Settings


def configure(settings: Settings) -> None:
    """Set up structlog for this process, and pass the libraries' warnings through it."""
    level = getattr(logging, settings.mo_log_level.upper())
    renderer = (
        structlog.processors.JSONRenderer()
        if settings.mo_log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    )
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Never with the values of local variables, among which are keys and what customers owe.
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    tracebacks: list[structlog.typing.Processor] = (
        [structlog.processors.ExceptionRenderer(frames)] if settings.mo_log_format == "json" else []
    )
    structlog.configure(
        processors=[*shared, *tracebacks, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    if settings.mo_log_format == "json":
        # gRPC's C core writes lines of its own, which are no JSON, and which any caller can provoke with a malformed header.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tracebacks, renderer],
            foreign_pre_chain=shared,
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
