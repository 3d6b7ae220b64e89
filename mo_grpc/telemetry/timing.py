"""Where the time of a call went."""

from mo_grpc.telemetry.calls import Call, Phase


def timing(call: Call, now: float) -> dict[str, float]:
    """Milliseconds of a call until `now` (`perf_counter`), by what it waited for, in the order of the first time.

    `queue` is the wait until its work in the database began; then come the phases of `Work`; `rest` is all else, such as
    to check the request. What a batch does for many calls, all of them wait for.
    """
    parts: dict[str, float] = {}
    done = call.began

    def add(name: str, ended: float, began: float | None = None) -> None:
        nonlocal done
        began, ended = max(done, began or done), min(ended, now)
        if ended > began:
            parts[name] = parts.get(name, 0.0) + (ended - began) * 1000
            done = ended

    for work, asked in call.rides:
        add("queue", work.began, asked)
        running = [Phase(work.phase, work.ended, now)] if work.phase else []
        for phase in (*work.phases, *running):
            add(phase.name, phase.ended, phase.began)
    parts["rest"] = max(0.0, (now - call.began) * 1000 - sum(parts.values()))
    return parts


def server_timing(call: Call) -> str:
    """Where the time of a call that has ended went, as a header (W3C, Server Timing)."""
    return ", ".join(f"{name};dur={milliseconds:.2f}" for name, milliseconds in timing(call, call.ended).items())
