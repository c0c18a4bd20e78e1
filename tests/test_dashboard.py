"""The dashboard and the alerts on a real Prometheus that scrapes the real service, with a key, under a little load."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from models.store import Store
from tests.canaries import NAME
from tests.server import EXAMPLES, ROOT, SHIPPED, Server, free_port, wait_until
from tests.test_swaps import second_version

DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "neuroserve.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {"$__rate_interval": "10s", "$model": ".+", "$route": ".+"}
SECRET = "ns_scraper-0123456789abcdef"
NVIDIA_SMI = "#!/bin/sh\necho 'GPU-1111, 81559, 1024, 37, 120.50, 700.00'\n"
JSON = {"Content-Type": "application/json"}


def program(name):
    """Debian's own: from the PATH, or where `fetch_prometheus.sh` puts it."""
    found = shutil.which(name) or shutil.which(name, path=ROOT / "var" / "prometheus" / "usr" / "bin")
    assert found, f"no {name}; run: sh tests/fetch_prometheus.sh var/prometheus"
    return found


def filled_in(query):
    """A panel's query as Grafana would send it with everything chosen."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


def test_panels_lie_side_by_side_and_say_what_they_show():
    """No two overlap or share an id; each has a title, a description, a unit and the chosen data source."""
    taken = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


def test_dashboard_and_alerts_ask_for_documented_metrics_only():
    """What is renamed in the service must be renamed here."""
    known = set(re.findall(r"`(neuroserve_\w+)`", (ROOT / "docs" / "metrics.md").read_text("utf-8")))
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "sum", "count")}
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text("utf-8"))["groups"][0]["rules"]
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]] + [rule["expr"] for rule in rules]
    assert {name for query in asked for name in re.findall(r"neuroserve_\w+", query)} <= known


def test_grafana_finds_its_data_source_and_its_dashboards():
    """The address is compose's Prometheus, the folder is the one that compose mounts."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    provisioning = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards" / "neuroserve.yml").read_text("utf-8"))["providers"]
    mounts = dict(mount.split(":")[:2] for mount in services["grafana"]["volumes"])
    assert source["url"] == "http://prometheus:9090"
    assert provider["options"]["path"] == mounts["./deploy/grafana/dashboards"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))["scrape_configs"][0]
    assert scraped["static_configs"] == [{"targets": ["api:8000"]}]


@contextmanager
def prometheus(folder: Path, target: str):
    """A Prometheus with the shipped configuration, but for the address, the key and a shorter interval."""
    folder.mkdir()
    shutil.copy(DEPLOY / "prometheus" / "rules.yml", folder)
    settings = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    (folder / "key").write_text(SECRET)
    for check in (["config", "prometheus.yml"], ["rules", "rules.yml"]):
        subprocess.run([program("promtool"), "check", *check], cwd=folder, check=True, capture_output=True)
    port = free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as client:
            wait_until(lambda: answers(client), 30)
            yield client
    finally:
        process.terminate()
        process.wait(20)


def answers(client):
    try:
        return client.get("/query", params={"query": "1"}).is_success
    except httpx.TransportError:
        return False


def asked(client, query):
    """The values of a query now; NaN is no data."""
    told = client.get("/query", params={"query": query}).json()
    assert told["status"] == "success", (query, told)
    return [float(each["value"][1]) for each in told["data"]["result"] if each["value"][1] != "NaN"]


def load(server, over: threading.Event):
    """Digits, texts that share padded batches, and requests that fail, until it is over."""
    texts = [f"Oil prices rise{' again' * index}" for index in range(8)]
    with httpx.Client(base_url=server.url, headers=server.client.headers, timeout=30) as client:
        while not over.is_set():
            client.post(
                "/predict/digit", content=(EXAMPLES / "seven.png").read_bytes(), headers={"Content-Type": "image/png"}
            )
            client.post("/predict/sequence/batch", json={"inputs": [{"text": text} for text in texts]})
            client.post("/predict/sequence", json={"text": ""})
            client.get("/models/nothing")
            time.sleep(0.05)


@pytest.mark.slow
def test_every_panel_has_data_and_no_alert_has_a_fault(tmp_path, monkeypatch):
    """Each query of each panel, with a stand-in for the driver's nvidia-smi; alerts are evaluated without an error."""
    program_of_driver = tmp_path / "bin" / "nvidia-smi"
    program_of_driver.parent.mkdir()
    program_of_driver.write_text(NVIDIA_SMI)
    program_of_driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program_of_driver.parent}{os.pathsep}{os.environ['PATH']}")
    keys, over = f"ops:admin+predict:{SECRET}", threading.Event()
    with Server(tmp_path / "state", trainer="external", api_keys=keys, ready=False) as server:
        server.client.headers["Authorization"] = f"Bearer {SECRET}"
        assert server.client.post("/train", json={"task": "digit"}).status_code == 202
        candidate = second_version(Store(server.state / "models"))
        assert candidate > SHIPPED.live(NAME)
        order = {"version": candidate, "percent": 100, "mode": "shadow"}
        assert server.client.post(f"/models/{NAME}/canary", json=order).is_success
        loading = threading.Thread(target=load, args=(server, over))
        loading.start()
        try:
            with prometheus(tmp_path / "prometheus", server.url.removeprefix("http://")) as client:
                wait_until(lambda: asked(client, 'up{job="neuroserve"} == 1'), 30)
                queries = {
                    (panel["title"], target["refId"]): filled_in(target["expr"])
                    for panel in PANELS
                    for target in panel["targets"]
                }
                until = time.monotonic() + 45
                while (empty := [key for key, query in queries.items() if not asked(client, query)]) and (
                    time.monotonic() < until
                ):
                    time.sleep(1)
                assert not empty
                for variable in DASHBOARD["templating"]["list"]:
                    if variable["type"] == "query":
                        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
                        assert client.get(f"/label/{label}/values", params={"match[]": metric}).json()["data"]
                [group] = wait_until(lambda: evaluated(client), 20)
                assert {rule["health"] for rule in group["rules"]} == {"ok"}
                assert asked(client, 'sum(rate(neuroserve_request_seconds_count{status="404"}[10s]))')[0] > 0
        finally:
            over.set()
            loading.join()


def evaluated(client):
    """The groups of alerts once each rule has been looked at."""
    groups = client.get("/rules").json()["data"]["groups"]
    return groups if all(rule["health"] != "unknown" for group in groups for rule in group["rules"]) else None
