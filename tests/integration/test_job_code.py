"""What job code may do in a worker process, and what of it the process does not survive."""


def test_job_code_may_copy_on_a_connection_of_its_own(service):
    """A wait callback of psycopg2's would be for the connections of the whole process, and knows no COPY."""
    service.start_api()
    service.start_worker()

    job_id = service.post("test-copy", {}, max_attempts=1)

    assert service.when(job_id, "completed")["result"] == "1\n2\n3\n"


def test_each_connection_says_whose_it_is(service, database):
    """The runbook of PostgreSQL's connections groups by it."""
    service.start_api()
    service.start_worker()

    service.when(service.post("csv-generation", {"name": "Alice"}), "completed")

    rows = database.rows("SELECT application_name FROM pg_stat_activity WHERE datname = current_database()")
    names = {name.removeprefix("async-job-system ") for (name,) in rows}
    assert {"app request", "worker attempt", "worker heartbeat", "worker maintenance"} <= names
