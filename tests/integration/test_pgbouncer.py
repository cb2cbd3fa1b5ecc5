"""A bridge behind PgBouncer: a job goes all the way, whatever the pooler's mode."""

import pytest

from bridge_bench import SUBJECT, Site

RUN = {"hostname": "pi", "unixname": "u", "pid": 7}


@pytest.fixture
def site(pooler, postgres_url, broker, tmp_path, api):
    """Only the bridge goes by the pooler."""
    api.seen.clear()
    api.answers.clear()
    made = Site(postgres_url, broker, api, tmp_path)
    made.url = pooler.url_of(postgres_url)
    yield made
    made.close()


@pytest.mark.parametrize("listens", [False, True])
def test_jobs_go_all_the_way(site, worker, postgres_url, listens):
    site.start_bridge(*(["--listen-url", postgres_url] if listens else []))
    for number in range(3):
        job = site.queue()
        run = worker.order()
        worker.event("accepted", run)
        assert worker.call(run, "PATCH", f"task-instances/{SUBJECT}{number}/run", RUN).status == 200
        assert worker.call(run, "PATCH", f"task-instances/{SUBJECT}{number}/state", {"state": "success"}).status == 204
        worker.event("finished", run, outcome="succeeded", exit_code=0, log_size=0)
        site.wait_state(job, "succeeded")
        assert site.job(job).token == ""
    said = site.log_text(0)
    assert said.count("give listen_url") == (0 if listens else 1)
    assert "Traceback" not in said and "could not be applied" not in said
