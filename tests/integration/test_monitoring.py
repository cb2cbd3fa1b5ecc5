"""A real Prometheus, with what deploy/monitoring holds, scrapes real bridges."""

import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from airflow_mqtt.bridge.upkeep.metrics import METRICS, PREFIX, Kind
from airflow_mqtt.database.bridges import bridges
from airflow_mqtt.protocol.messages import FIGURES
from airflow_mqtt.protocol.topics import TopicKind
from bridge_bench import SUBJECT, Site
from fakes import FakeExecutionApi, FakeWorker
from servers import free_port, mosquitto, prometheus, promtool, wait_for

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"
RULES = MONITORING / "airflow-mqtt.rules.yml"
DASHBOARD = json.loads((MONITORING / "airflow-mqtt.dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def names_in(text):
    """The metrics that a text of queries names, without what Prometheus adds to those of histograms."""
    histograms = {metric.full_name for metric in METRICS if metric.kind is Kind.HISTOGRAM}
    found = set()
    for name in re.findall(rf"\b{PREFIX}\w+", text):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        found.add(base if base in histograms else name)
    return found


def queries_of_dashboard():
    """The queries of all panels, as Grafana would send them."""
    texts = [target["expr"] for panel in PANELS for target in panel["targets"]]
    for name, value in (("$__rate_interval", "1m"), ("$team", ".*"), ("$worker", ".*")):
        texts = [text.replace(name, value) for text in texts]
    return texts


def page(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return answer.read().decode()


def has(port, text):
    """Whether a bridge's page has a line that begins so."""
    try:
        return any(line.startswith(text) for line in page(port).splitlines())
    except urllib.error.URLError:
        return False


class Watched:
    """Two bridges, a worker that we play, and Prometheus, which hurries: seconds in place of minutes."""

    def __init__(self, site, worker, directory):
        self.site, self.worker, self.directory = site, worker, directory
        self.ports = [free_port(), free_port()]
        for port in self.ports:
            site.start_bridge("--metrics-address", f"127.0.0.1:{port}")
            wait_for(lambda port=port: has(port, "airflow_mqtt_leading"), what="its page", timeout=60)
        self.leader = wait_for(self._leader, what="a leader", timeout=60)

    def _leader(self):
        return next((port for port in self.ports if has(port, 'airflow_mqtt_leading{team_name=""} 1')), None)

    def configuration(self):
        """What is deployed, with our ports and short times."""
        text = (MONITORING / "prometheus.yml").read_text()
        targets = ", ".join(f'"127.0.0.1:{port}"' for port in self.ports)
        assert '["127.0.0.1:9883"]' in text and "15s" in text
        path = self.directory / "prometheus.yml"
        path.write_text(text.replace('["127.0.0.1:9883"]', f"[{targets}]").replace("15s", "1s"))
        rules = re.sub(r"for: \w+", "for: 1s", RULES.read_text())
        (self.directory / RULES.name).write_text(rules)
        return path

    def work(self):
        """Have each metric counted: a job goes all the way, a call and a message are refused, a log is cut."""
        site, worker = self.site, self.worker
        job = site.queue()
        run = worker.order()
        worker.event("accepted", run)
        body = {"hostname": "pi", "unixname": "u", "pid": 7}
        assert worker.call(run, "PATCH", f"task-instances/{SUBJECT}0/run", body).status == 200
        assert worker.call(run, "GET", "no/such/path").status == 404
        worker.publish(worker.topics.worker(worker.name, TopicKind.EVENTS), b"no message")
        worker.status(health={**dict.fromkeys(FIGURES, 1), "extra": {"depth": 2}})
        assert worker.call(run, "PATCH", f"task-instances/{SUBJECT}0/state", {"state": "success"}).status == 204
        worker.event("finished", run, outcome="succeeded", exit_code=0)
        site.wait_state(job, "succeeded", timeout=60)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    directory = tmp_path_factory.mktemp("watched")
    with mosquitto(directory / "broker", accounts=["edge-1"]) as broker, FakeExecutionApi() as api:
        site = Site(f"sqlite:///{directory}/airflow.db", broker, api, directory)
        try:
            with FakeWorker(broker.url("edge-1"), "edge-1") as worker:
                made = Watched(site, worker, directory)
                with prometheus(directory, made.configuration()) as made.prometheus:
                    made.work()
                    yield made
        finally:
            site.close()


def test_the_rules_are_as_prometheus_wants_them():
    assert "SUCCESS" in promtool("check", "rules", str(RULES))
    assert "SUCCESS" in promtool("check", "config", str(MONITORING / "prometheus.yml"))


def test_dashboard_and_rules_name_metrics_that_there_are():
    known = {metric.full_name for metric in METRICS}
    named = names_in(RULES.read_text()) | names_in(" ".join(queries_of_dashboard()))
    assert named <= known
    shown_nowhere = (
        known - named - {f"{PREFIX}bridge_info", f"{PREFIX}broker_connected", f"{PREFIX}lines_left_out_total"}
    )
    assert not shown_nowhere


def test_the_page_on_watching_lists_each_alert():
    listed = re.findall(
        r"^\| `(AirflowMqtt\w+)`", (MONITORING.parents[1] / "docs/how-to/watch.md").read_text(), re.MULTILINE
    )
    assert listed == re.findall(r"- alert: (\w+)", RULES.read_text())


def test_prometheus_has_each_metric_that_they_name(watched):
    def lacking():
        have = set(watched.prometheus.get("label/__name__/values"))
        return {
            metric.name
            for metric in METRICS
            if metric.full_name + ("_bucket" if metric.kind is Kind.HISTOGRAM else "") not in have
        }

    wait_for(lambda: not lacking(), what="all metrics in Prometheus", timeout=60)


def test_each_panel_and_rule_asks_what_prometheus_understands(watched):
    for text in queries_of_dashboard():
        watched.prometheus.query(text)
    groups = watched.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == RULES.read_text().count("- alert:")
    wait_for(
        lambda: all(r["health"] == "ok" for g in watched.prometheus.get("rules")["groups"] for r in g["rules"]),
        what="all rules to be evaluated without an error",
        timeout=60,
    )


def test_the_glance_of_the_dashboard_shows_the_fleet(watched):
    stats = {panel["title"]: panel["targets"][0]["expr"] for panel in PANELS if panel["type"] == "stat"}

    def value(title):
        query = stats[title].replace("$team", ".*")
        found = watched.prometheus.query(query)
        return float(found[0]["value"][1]) if found else None

    wait_for(lambda: value("Leaders") == 1, what="the leader", timeout=60)
    wait_for(lambda: value("Standing by") == 1, what="the standby", timeout=60)
    wait_for(lambda: value("Workers heard of") == 1, what="the worker", timeout=60)


def test_an_alert_fires_for_its_cause_and_ends_with_it(watched):
    """Jobs wait in a queue that nobody serves, until a worker comes."""
    alert = "AirflowMqttQueueWithoutWorker"
    assert alert not in watched.prometheus.alerts()
    job = watched.site.queue(queue="greenhouse")
    fired = wait_for(lambda: watched.prometheus.alerts().get(alert), what="the alert", timeout=60)
    assert fired["labels"]["queue"] == "greenhouse"
    assert "queue greenhouse" in fired["annotations"]["summary"]
    watched.site.cancel(job)
    wait_for(lambda: alert not in watched.prometheus.alerts(), what="its end", timeout=60)


def test_the_database_says_who_leads_and_who_stands_by(watched):
    def said():
        with Session(watched.site.engine) as session:
            found = bridges(session, "")
        return found if found.leader and found.standby and found.figures else None

    found = wait_for(said, what="leader, standby and figures", timeout=60)
    assert found.leader.instance != found.standby[0].instance
    assert {"jobs_started_per_minute", "writer_queue", "cpu"} <= set(found.figures)
    wait_for(lambda: said().refused == {"not_found": 1, "message: events": 1}, what="what was refused", timeout=60)


def test_a_takeover_is_counted(watched):
    """Each bridge has a series of its own, whose epoch may be the same for as long as it leads."""
    (query,) = {one["expr"] for panel in PANELS for one in panel["targets"] if "lease_epoch" in one["expr"]}
    query = query.replace("$team", ".*")

    def takeovers():
        return [float(one["value"][1]) for one in watched.prometheus.query(query)]

    wait_for(lambda: takeovers() == [0], what="the epoch", timeout=60)
    watched.site.bridges[watched.ports.index(watched.leader)].terminate()
    wait_for(lambda: takeovers() == [1], what="the next one", timeout=90)


def test_a_bridge_that_ends_is_missed(watched):
    """The last one: it ends all."""
    alert = "AirflowMqttNoLeader"
    wait_for(lambda: alert not in watched.prometheus.alerts(), what="a leader", timeout=60)
    for process in watched.site.bridges:
        process.terminate()
    wait_for(lambda: {alert, "AirflowMqttBridgeDown"} <= set(watched.prometheus.alerts()), what="alerts", timeout=90)
