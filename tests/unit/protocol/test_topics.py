"""Topics: what is built is parsed back, and nothing foreign is taken for ours."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_mqtt.protocol.errors import PayloadError
from airflow_mqtt.protocol.topics import JOB_ID, ROOT, WORKER_NAME, Topic, TopicKind, Topics, encode_queue

ROOTS = st.sampled_from(["airflow", "a", "site-1/airflow", "a/b/c", "v1", "airflow/v1"])
WORKERS = st.from_regex(WORKER_NAME, fullmatch=True)
JOBS = st.from_regex(JOB_ID, fullmatch=True)
QUEUES = st.text(min_size=1, max_size=20) | st.text("/+#.%$ \x00ä", min_size=1, max_size=20)
OF_WORKER = [
    TopicKind.STATUS,
    TopicKind.INFO,
    TopicKind.EVENTS,
    TopicKind.ACK,
    TopicKind.DESIRED,
    TopicKind.REQUEST,
    TopicKind.RESPONSE,
    TopicKind.PROBE,
]


@settings(max_examples=200)
@given(ROOTS, QUEUES, WORKERS)
@example("airflow", "a/b", "w")
@example("airflow", "+", "w")
@example("airflow", "#", "w")
@example("airflow", "a.b", "w")
@example("airflow", "%2F", "w")
@example("airflow", "größe ▲", "w")
def test_any_queue_name_comes_back(root, queue, worker):
    topics = Topics(root)
    assert topics.parse(topics.jobs(queue, worker)) == Topic(TopicKind.JOBS, worker=worker, queue=queue)
    assert topics.parse(topics.queue_status(queue)) == Topic(TopicKind.QUEUE_STATUS, queue=queue)


@given(QUEUES)
def test_a_queue_is_one_level_without_wildcards_and_dots(queue):
    level = encode_queue(queue)
    assert level.isascii()
    assert not set(level) & set("/+#.$\x00 ")


@given(QUEUES, QUEUES)
def test_two_queues_never_share_a_topic(one, other):
    assert (encode_queue(one) == encode_queue(other)) == (one == other)


@given(ROOTS, WORKERS, JOBS, st.sampled_from(OF_WORKER))
def test_the_other_topics_come_back(root, worker, job, kind):
    topics = Topics(root)
    assert topics.parse(topics.worker(worker, kind)) == Topic(kind, worker=worker)
    assert topics.parse(topics.logs(worker, job)) == Topic(TopicKind.LOGS, worker=worker, job=job)
    assert topics.parse(topics.job_status(job)) == Topic(TopicKind.JOB_STATUS, job=job)
    assert topics.parse(topics.bridge_status) == Topic(TopicKind.BRIDGE_STATUS)
    assert topics.parse(topics.bridge_echo(worker)).kind is TopicKind.BRIDGE_ECHO


@settings(max_examples=30)
@given(st.from_regex(ROOT, fullmatch=True))
def test_a_root_may_have_levels_but_no_wildcards(root):
    assert not set(root) & set("+#$. ")
    assert Topics(root).parse(Topics(root).bridge_status).kind is TopicKind.BRIDGE_STATUS


@given(ROOTS, ROOTS, QUEUES, WORKERS)
def test_foreign_roots_are_refused(root, other, queue, worker):
    topic = Topics(other).jobs(queue, worker)
    if topic.startswith(f"{root}/v1/"):
        return
    with pytest.raises(PayloadError, match="is not below"):
        Topics(root).parse(topic)


@pytest.mark.parametrize("version", ["v0", "v2", "v11", "1", "V1", "", "v1 "])
def test_foreign_versions_are_refused(version):
    with pytest.raises(PayloadError):
        Topics().parse(f"airflow/{version}/bridge/status")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "airflow/v1",
        "airflow/v1/",
        "/airflow/v1/bridge/status",
        "airflow/v1/bridge",
        "airflow/v1/bridge/status/x",
        "airflow/v1/worker/w",
        "airflow/v1/worker//status",
        "airflow/v1/worker/a b/status",
        "airflow/v1/worker/+/status",
        "airflow/v1/worker/w/unheard",
        "airflow/v1/worker/w/jobs",
        "airflow/v1/worker/w/logs",
        "airflow/v1/worker/w/logs/",
        "airflow/v1/worker/w/logs/j/x",
        "airflow/v1/worker/w\n/status",
        "airflow/v1/worker/" + "w" * 65 + "/status",
        "airflow/v1/queue//status",
        "airflow/v1/queue//jobs/w",
        "airflow/v1/queue/q/jobs/",
        "airflow/v1/queue/q/jobs/w/x",
        "airflow/v1/job//status",
        "airflow/v1/job/a.b/status",
        "x" * 70_000,
    ],
)
def test_what_is_no_topic_of_ours_is_refused(topic):
    with pytest.raises(PayloadError) as caught:
        Topics().parse(topic)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@settings(max_examples=300)
@given(st.text(max_size=60) | st.text("airflow/v1+#%worker", max_size=40).map("airflow/v1/".__add__))
def test_random_topics_raise_only_payload_error(topic):
    try:
        Topics().parse(topic)
    except PayloadError as error:
        assert "\n" not in str(error)


def _matches(pattern: str, topic: str) -> bool:
    levels, given_levels = pattern.split("/"), topic.split("/")
    return len(levels) == len(given_levels) and all(
        level in ("+", other) for level, other in zip(levels, given_levels, strict=True)
    )


@given(WORKERS, WORKERS, QUEUES, JOBS)
def test_a_worker_hears_what_is_for_it_and_nothing_for_others(me, other, queue, job):
    topics = Topics()
    mine = topics.of_worker(me)
    heard = [topics.jobs(queue, me), topics.bridge_status]
    heard += [
        topics.worker(me, kind) for kind in (TopicKind.ACK, TopicKind.DESIRED, TopicKind.RESPONSE, TopicKind.PROBE)
    ]
    assert all(any(_matches(pattern, topic) for pattern in mine) for topic in heard)
    if other != me:
        foreign = [
            topics.jobs(queue, other),
            topics.logs(other, job),
            *(topics.worker(other, kind) for kind in OF_WORKER),
        ]
        assert not any(_matches(pattern, topic) for pattern in mine for topic in foreign)


@given(WORKERS, JOBS)
def test_the_bridge_hears_all_that_workers_say(worker, job):
    topics = Topics()
    said = [
        topics.worker(worker, kind) for kind in (TopicKind.STATUS, TopicKind.INFO, TopicKind.EVENTS, TopicKind.REQUEST)
    ]
    for topic in [*said, topics.logs(worker, job), topics.bridge_status]:
        assert any(_matches(pattern, topic) for pattern in topics.of_bridge())
