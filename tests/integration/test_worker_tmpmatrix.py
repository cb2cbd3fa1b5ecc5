import pytest, servers
from worker_bench import FakeBridge, WorkerProcess
import worker_bench; worker_bench.RUN_CONTEXT["dag_run"].pop("partition_key")
@pytest.mark.parametrize("v", ["31"])
def test_v(tmp_path, v):
    with servers.mosquitto(tmp_path/"b", accounts=["edge-1"]) as broker, FakeBridge(broker.url("bridge"),"edge-1") as bridge:
        w=WorkerProcess(tmp_path/"w", broker.url("edge-1"), python=f"/tmp/v{v}/bin/python")
        w.env["PYTHONPATH"]="/work/main/protocol:/work/main/worker"
        with servers.running(w):
            bridge.status("idle")
            job=bridge.run("quick"); e=bridge.event(job,"finished",timeout=100); print(e, bridge.calls(job))
            job2=bridge.run("wait_for_file"); bridge.log(job2,"waiting"); bridge.cancel(job2); e2=bridge.event(job2,"cancelled",timeout=30); print(e2)
            print(open(w.state_dir/"host.log").read()[-1500:])
            assert e.outcome=="succeeded", bridge.log(job,"error")

