"""Writes the dashboards for Grafana: `python deploy/grafana/generate.py`; with `--check`, only whether they are current."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

OURS = 'job="mo-grpc",instance=~"$instance"'
CALLS = f'{OURS},grpc_service=~"mo[.].*"'


class Graph(NamedTuple):
    """A panel: its question, its unit, and its queries, each with what its lines are called."""

    question: str
    unit: str
    queries: Sequence[tuple[str, str]]


class Number(NamedTuple):
    """A panel with one number."""

    question: str
    unit: str
    query: str


class Board(NamedTuple):
    """A dashboard: rows of panels."""

    name: str
    title: str
    rows: Sequence[tuple[str, Sequence[Graph | Number]]]


def quantiles(metric: str, labels: str, by: str = "") -> list[tuple[str, str]]:
    """The median, and what the slowest twentieth and hundredth exceed."""
    return [
        (f"histogram_quantile({q}, sum by (le{by}) (rate({metric}_bucket{{{labels}}}[$__rate_interval])))", name)
        for q, name in (("0.5", "p50"), ("0.95", "p95"), ("0.99", "p99"))
    ]


def rate(metric: str, by: str, labels: str = OURS) -> list[tuple[str, str]]:
    """How many a second, by some labels."""
    name = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return [(f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))", name)]


SERVICE = Board(
    "service",
    "MO: service",
    [
        (
            "Service levels",
            [
                Number(
                    "How many calls come in?", "reqps", f"sum(rate(grpc_server_started_total{{{CALLS}}}[$__rate_interval]))"
                ),
                Number("Which part fails by our fault? (at most 0.1 %)", "percentunit", "mo:errors:ratio_rate5m"),
                Number("Which part takes more than 250 ms? (at most 1 %)", "percentunit", "mo:slow:ratio_rate5m"),
                Number("How many calls run at this moment?", "short", f"sum(mo_calls_in_flight{{{OURS}}})"),
            ],
        ),
        (
            "Calls",
            [
                Graph("How many calls are answered, by RPC?", "reqps", rate("grpc_server_handled_total", "grpc_method", CALLS)),
                Graph("How do calls end?", "reqps", rate("grpc_server_handled_total", "grpc_code", CALLS)),
                Graph("How long do calls take?", "s", quantiles("grpc_server_handling_seconds", CALLS)),
                Graph(
                    "Which RPCs are slow? (p99)",
                    "s",
                    [
                        (
                            "histogram_quantile(0.99, sum by (le, grpc_method) "
                            f"(rate(grpc_server_handling_seconds_bucket{{{CALLS}}}[$__rate_interval])))",
                            "{{grpc_method}}",
                        )
                    ],
                ),
                Graph("Why are calls refused?", "reqps", rate("mo_refusals_total", "reason")),
                Graph("How many answers are sent again?", "reqps", rate("mo_idempotency_replays_total", "job")),
            ],
        ),
        (
            "Processes",
            [
                Graph("How much memory does each process hold?", "bytes", [(f"mo_memory_bytes{{{OURS}}}", "{{process}}")]),
                Graph("How late is the event loop?", "s", quantiles("mo_event_loop_lag_seconds", OURS)),
                Graph("How old is what is known of keys and tokens?", "s", [(f"mo_ring_age_seconds{{{OURS}}}", "{{ring}}")]),
                Graph("Which background tasks run?", "short", [(f"mo_background_tasks{{{OURS}}}", "{{task}}")]),
                Graph("Which of them fail?", "short", rate("mo_background_task_failures_total", "task")),
                Graph(
                    "What do callers see at Envoy?",
                    "reqps",
                    [
                        (
                            "sum by (envoy_response_code_class) (rate(envoy_http_downstream_rq_xx"
                            '{job="mo-edge",envoy_http_conn_manager_prefix="edge"}[$__rate_interval]))',
                            "{{envoy_response_code_class}}xx",
                        )
                    ],
                ),
                Graph(
                    "How many connections has Envoy?",
                    "short",
                    [
                        (
                            'envoy_http_downstream_cx_active{job="mo-edge",envoy_http_conn_manager_prefix="edge"}',
                            "{{instance}}",
                        )
                    ],
                ),
            ],
        ),
    ],
)

DATABASE = Board(
    "database",
    "MO: database",
    [
        (
            "Work",
            [
                Graph(
                    "Where does the time in the database go?",
                    "s",
                    [
                        (
                            f"sum by (work, phase) (rate(mo_work_phase_seconds_sum{{{OURS}}}[$__rate_interval]))",
                            "{{work}} {{phase}}",
                        )
                    ],
                ),
                Graph(
                    "How long does a phase take? (p95)",
                    "s",
                    [
                        (
                            "histogram_quantile(0.95, sum by (le, work, phase) "
                            f"(rate(mo_work_phase_seconds_bucket{{{OURS}}}[$__rate_interval])))",
                            "{{work}} {{phase}}",
                        )
                    ],
                ),
                Graph("How many calls share a batch?", "short", quantiles("mo_batch_size", OURS)),
                Graph("How long does a call wait for its batch?", "s", quantiles("mo_batch_wait_seconds", OURS)),
                Graph(
                    "How many statements and round trips does a call take?",
                    "short",
                    [
                        (
                            f"sum(rate(mo_{name}_total{{{OURS}}}[$__rate_interval])) "
                            f"/ sum(rate(grpc_server_handled_total{{{CALLS}}}[$__rate_interval]))",
                            name.replace("_", " "),
                        )
                        for name in ("statements", "round_trips")
                    ],
                ),
                Graph("Why is work done again?", "short", rate("mo_retries_total", "reason")),
                Graph(
                    "How much of the pools is in use?",
                    "percentunit",
                    [(f"sum by (pool) (mo_pool_in_use{{{OURS}}}) / sum by (pool) (mo_pool_size{{{OURS}}})", "{{pool}}")],
                ),
                Graph(
                    "How much work waits for a connection?",
                    "short",
                    [(f"sum by (pool) (mo_pool_waiting{{{OURS}}})", "{{pool}}")],
                ),
            ],
        ),
        (
            "PostgreSQL",
            [
                Graph(
                    "How many connections has it, and may it have?",
                    "short",
                    [
                        (f"max(mo_postgres_connections{{{OURS}}})", "connections"),
                        (f"max(mo_postgres_max_connections{{{OURS}}})", "at most"),
                    ],
                ),
                Graph(
                    "How many transactions end, and how?",
                    "short",
                    [
                        (
                            f"max by (outcome) (rate(mo_postgres_transactions{{{OURS}}}[$__rate_interval]))",
                            "{{outcome}}",
                        )
                    ],
                ),
                Graph(
                    "How many sessions wait for a lock?",
                    "short",
                    [(f"max(mo_postgres_waiting_for_locks{{{OURS}}})", "waiting")],
                ),
                Graph(
                    "How long has the oldest transaction been open?",
                    "s",
                    [(f"max(mo_postgres_oldest_transaction_seconds{{{OURS}}})", "oldest")],
                ),
                Graph(
                    "Which part of the blocks is found in memory?",
                    "percentunit",
                    [
                        (
                            f'max(rate(mo_postgres_blocks{{{OURS},source="memory"}}[$__rate_interval])) '
                            f"/ sum(max by (source) (rate(mo_postgres_blocks{{{OURS}}}[$__rate_interval])))",
                            "memory",
                        )
                    ],
                ),
                Graph(
                    "How much is written ahead?",
                    "Bps",
                    [(f"max(rate(mo_postgres_wal_bytes{{{OURS}}}[$__rate_interval]))", "WAL")],
                ),
                Graph("How large is the database?", "bytes", [(f"max(mo_postgres_size_bytes{{{OURS}}})", "size")]),
                Graph(
                    "How far behind is the slowest standby?",
                    "bytes",
                    [(f"max(mo_postgres_replica_lag_bytes{{{OURS}}})", "lag")],
                ),
            ],
        ),
    ],
)

BUSINESS = Board(
    "business",
    "MO: business",
    [
        (
            "Money",
            [
                Number("Lent today", "short", f'sum(increase(mo_money_total{{{OURS},movement="lent"}}[1d]))'),
                Number("Repaid today", "short", f'sum(increase(mo_money_total{{{OURS},movement="repaid"}}[1d]))'),
                Number("Rows that break an invariant", "short", "sum(mo_audit_broken_rows)"),
                Number("Time since the last audit", "s", "time() - max(mo_audit_timestamp_seconds)"),
                Graph("How much is lent, repaid and bounced?", "short", rate("mo_money_total", "movement")),
                Graph("What becomes of loans?", "short", rate("mo_loans_total", "outcome")),
                Graph("What becomes of payments?", "short", rate("mo_payments_total", "outcome")),
                Graph("How many customers are created or changed?", "short", rate("mo_customers_total", "outcome")),
            ],
        ),
        (
            "Imports and strangers",
            [
                Graph("What becomes of imported lines?", "short", rate("mo_import_lines_total", "outcome")),
                Graph(
                    "How old is the oldest import that is not over?",
                    "s",
                    [(f"max(mo_import_backlog_seconds{{{OURS}}})", "age")],
                ),
                Graph("How often is the honeypot tried?", "short", rate("mo_honeypot_attempts_total", "stored")),
            ],
        ),
    ],
)

BOARDS = (SERVICE, DATABASE, BUSINESS)


def panel(content: Graph | Number) -> stat.Panel | timeseries.Panel:
    """The panel of a graph or a number."""
    made: stat.Panel | timeseries.Panel
    if isinstance(content, Number):
        made = stat.Panel().span(6).height(4).with_target(prometheus.Dataquery().expr(content.query).ref_id("A"))
    else:
        made = timeseries.Panel().span(12).height(8)
        for number, (expression, name) in enumerate(content.queries):
            made.with_target(prometheus.Dataquery().expr(expression).legend_format(name).ref_id(chr(ord("A") + number)))
    return made.title(content.question).unit(content.unit).datasource(SOURCE)


def render(board: Board) -> str:
    """The JSON of a dashboard."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(f"mo-{board.name}")
        .tags(["mo-grpc"])
        .refresh("30s")
        .time("now-3h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("instance")
            .query("label_values(mo_workers, instance)")
            .datasource(SOURCE)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    )
    for title, panels in board.rows:
        built.with_row(dashboard.Row(title))
        for each in panels:
            built.with_panel(panel(each))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the dashboards, or check them; the exit status is 1 if they are not current."""
    for board in BOARDS:
        path, content = FOLDER / f"{board.name}.json", render(board)
        if "--check" in arguments:
            if not path.exists() or path.read_text(encoding="utf-8") != content:
                print(f"{path.relative_to(Path.cwd())} is not current: run `make generate`.", file=sys.stderr)
                return 1
        else:
            path.write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
