"""The dashboard "Jobs: workers": threads, processes, what they write to PostgreSQL, and maintenance."""

from pages import Row, dashboard, datasource_variable, link
from panels import Column, Json, Panel, Query, graph, stat, table
from promql import increase, quantile, rate, truth

BY_INSTANCE = "{{instance}}"
#: A process of a container keeps its slot, which prometheus-client calls pid, when it is restarted.
BY_PROCESS = "{{instance}} {{pid}}"


def build() -> Json:
    return dashboard(
        uid="jobs-workers",
        title="Jobs: workers",
        description="Worker threads and processes, the transitions they write, maintenance, and the versions that run.",
        variables=[datasource_variable()],
        rows=[
            Row("Health", _health()),
            Row("Threads", _threads()),
            Row("Processes", _processes()),
            Row("Transitions", _transitions()),
            Row("Maintenance", [*_leader(), *_services()]),
            Row("Versions", [_versions()]),
        ],
    )


def _health() -> list[Panel]:
    return [
        stat(
            "Worker processes",
            "Worker processes whose heartbeat in PostgreSQL is fresh. None: nothing is processed.",
            truth("jobs_workers", "", ""),
            unit="none",
            base="red",
            steps={1: "green"},
        ),
        stat(
            "Threads in use",
            "The part of all worker threads that is handling a message. At 100 %, jobs wait.",
            "sum(jobs_worker_threads_busy) / (sum(jobs_worker_threads) > 0)",
            unit="percentunit",
            steps={0.8: "orange", 0.95: "red"},
        ),
        stat(
            "Oldest heartbeat",
            "How long ago the most silent worker process last looked at itself. Past LEASE_SECONDS it loses its jobs.",
            "max(time() - jobs_worker_heartbeat_timestamp_seconds)",
            unit="s",
            steps={10: "orange", 15: "red"},
            decimals=1,
        ),
        stat(
            "Starts, last hour",
            "Times a worker process started in the last hour. Many without a deploy: something ends them.",
            "sum(changes(jobs_worker_start_time_seconds[1h]))",
            unit="none",
            steps={1: "blue", 10: "orange"},
        ),
        stat(
            "Maintenance leaders",
            "Processes that lead maintenance: one. None for long: no job is rescued, and no overdue job is published.",
            "sum(jobs_maintenance_leader)",
            unit="none",
            base="red",
            steps={1: "green", 2: "red"},
        ),
        stat(
            "Breakers open",
            "Servers that are unavailable: one job at a time tries each, the others wait.",
            "sum(max by (breaker) (jobs_breaker_open)) or vector(0)",
            unit="none",
            steps={1: "orange"},
        ),
    ]


def _threads() -> list[Panel]:
    busy, threads = "sum by (instance) (jobs_worker_threads_busy)", "sum by (instance) (jobs_worker_threads)"
    return [
        graph(
            "Busy threads by container",
            "Threads that are handling a message, and, dashed, all threads of the container.",
            [Query(busy, BY_INSTANCE), Query(threads, f"threads, {BY_INSTANCE}", target=True)],
            unit="short",
        ),
        graph(
            "Threads in use by container",
            "The same as a part. At 100 % on all of them, jobs wait: more workers, or faster jobs.",
            [Query(f"{busy} / ({threads} > 0)", BY_INSTANCE)],
            unit="percentunit",
            maximum=1,
        ),
        graph(
            "Running attempts by job type",
            "What the threads are busy with.",
            [Query("sum by (actor_name) (jobs_worker_running)", "{{actor_name}}")],
            unit="short",
            stacked=True,
            width=8,
            leads_to=[link("This job type", "jobs-type", label="actor_name")],
        ),
        graph(
            "Messages waiting in memory",
            "Messages a process has taken from Redis and has no free thread for. They go back when it is stopped.",
            [Query("sum by (instance) (jobs_worker_prefetched_messages)", BY_INSTANCE)],
            unit="short",
            width=8,
        ),
        graph(
            "Consumers by queue",
            "Threads that take messages from each queue, one for each worker process.",
            [Query("sum by (queue_name) (jobs_worker_consumers)", "{{queue_name}}")],
            unit="short",
            width=8,
            leads_to=[link("This queue", "jobs-queue", label="queue_name")],
        ),
        graph(
            "Jobs that wait for servers",
            "By the server that is unavailable, or is back and gets its jobs a few at a time.",
            [Query(truth("jobs_breaker_waiting", "breaker", ""), "{{breaker}}")],
            unit="short",
            width=24,
        ),
    ]


def _processes() -> list[Panel]:
    return [
        graph(
            "Memory by process",
            "Resident memory. A line that only climbs: a job type keeps what it should let go.",
            [Query("jobs_worker_resident_memory_bytes", BY_PROCESS)],
            unit="bytes",
            width=8,
        ),
        graph(
            "CPU by container",
            "Seconds of processor time per second: 1 is one core. Python runs one thread of a process at a time.",
            [Query(rate("jobs_worker_cpu_seconds_total", "instance", ""), BY_INSTANCE)],
            unit="short",
            width=8,
        ),
        graph(
            "Open files by process",
            "Files and sockets. A line that only climbs ends at the process's limit.",
            [Query("jobs_worker_open_fds", BY_PROCESS)],
            unit="short",
            width=8,
        ),
        graph(
            "Heartbeat age by process",
            "How long ago each process last looked at itself.",
            [Query("time() - jobs_worker_heartbeat_timestamp_seconds", BY_PROCESS)],
            unit="s",
            width=8,
        ),
        graph(
            "Uptime by process",
            "Falls to zero when a process starts.",
            [Query("time() - jobs_worker_start_time_seconds", BY_PROCESS)],
            unit="s",
            width=8,
        ),
        graph(
            "Warnings and errors logged",
            "Log lines from warning up, per second, by level and by the module that wrote them; API and workers.",
            [Query(rate("jobs_log_records_total", "level, logger", ""), "{{level}} {{logger}}")],
            unit="cps",
            width=8,
        ),
    ]


def _transitions() -> list[Panel]:
    return [
        graph(
            "Time to write a transition, p95",
            "From wanting to write a claim or a verdict to PostgreSQL's commit, waiting for it included.",
            [Query(quantile(0.95, "jobs_state_sync_duration_seconds", "operation", ""), "{{operation}}")],
            unit="s",
        ),
        graph(
            "Transitions not answered",
            "Tries that PostgreSQL did not answer, per second. Each is repeated until it does; no verdict is lost.",
            [Query(rate("jobs_state_sync_errors_total", "operation", ""), "{{operation}}")],
            unit="cps",
        ),
    ]


def _leader() -> list[Panel]:
    return [
        graph(
            "Leader",
            "The container whose process leads maintenance.",
            [Query("sum by (instance) (jobs_maintenance_leader)", BY_INSTANCE)],
            unit="none",
            width=8,
        ),
        graph(
            "Last good run",
            "How long ago each service last ran without an error. It should stay near the service's interval.",
            [Query(f"time() - {_newest('jobs_maintenance_last_run_timestamp_seconds')}", "{{service}}")],
            unit="s",
            width=8,
        ),
        graph(
            "Run time, p95",
            "The slowest twentieth of the runs of each service takes longer than this.",
            [Query(quantile(0.95, "jobs_maintenance_duration_seconds", "service", ""), "{{service}}")],
            unit="s",
            width=8,
        ),
        *_clocks(),
    ]


def _clocks() -> list[Panel]:
    return [
        graph(
            "Clocks",
            "How far the clocks of the processes are off PostgreSQL's, which decides what is due. Near 0.",
            [Query("max by (instance) (abs(jobs_clock_offset_seconds))", BY_INSTANCE)],
            unit="s",
            width=12,
        ),
        graph(
            "PostgreSQL's clock was set",
            "Jumps of more than a second in each interval: none.",
            [Query(increase("jobs_database_clock_steps_total", "", ""), "steps")],
            unit="short",
            width=12,
        ),
    ]


def _newest(metric: str) -> str:
    """Return the newest time by service, of all leaders there have been; those that never led say 0."""
    return f"max by (service) ({metric})"


def _services() -> list[Panel]:
    return [
        graph(
            "Runs that ended in an error",
            "In each interval, by service. The next run tries again.",
            [Query(increase("jobs_maintenance_errors_total", "service", ""), "{{service}}")],
            unit="short",
            width=8,
        ),
        graph(
            "Jobs taken back",
            "Jobs rescued from lost workers in each interval, by job type.",
            [Query(increase("jobs_rescued_total", "actor_name", ""), "{{actor_name}}")],
            unit="short",
            width=8,
        ),
        graph(
            "Rows deleted by age",
            "Finished jobs deleted in each interval, by the status they had.",
            [Query(increase("jobs_pruned_total", "status", ""), "{{status}}")],
            unit="short",
            width=8,
        ),
    ]


def _versions() -> Panel:
    return table(
        "Versions",
        "What runs: more than one version for longer than a deploy takes is a deploy that stopped half-way.",
        {"version": "Version", "python": "Python", "dramatiq": "Dramatiq"},
        [Column("Containers", "count by (version, python, dramatiq) (jobs_build_info)")],
        height=5,
    )
