"""The files around the images, as far as they can be judged without building; `deploy/check_containers.sh` builds."""

import fnmatch
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from service.security import Guard
from service.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")


def program(name):
    """A program of `deploy/`, imported from its file."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "deploy" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def names(lines):
    return {re.split(r"[\[<>=;~! ]", line)[0] for line in lines}


def test_images_for_the_cpu_hold_no_cuda(project):
    """Without the extra `gpu` no list names a package that brings CUDA, and torch goes to the trainer alone."""
    lists = program("requirements").requirements(project, [])
    assert "onnxruntime-gpu" not in names([*lists["base"], *lists["service"], *lists["trainer"]])
    assert "onnxruntime" in names(lists["base"])
    assert lists["service"] == []
    assert "torch" in names(lists["trainer"])
    assert "torch" not in names(lists["base"])


def test_the_gpu_extra_reaches_the_service_alone(project):
    """With `gpu` the service gets the CUDA libraries; the trainer has those that its torch pins."""
    lists = program("requirements").requirements(project, ["gpu"])
    assert lists["base"] == project["dependencies"]
    assert any("[cuda,cudnn]" in line for line in lists["service"])
    assert "onnxruntime-gpu" not in names(lists["trainer"])


def test_an_unknown_extra_is_refused(monkeypatch, tmp_path, capsys):
    """A mistyped build argument stops the build with a sentence."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    assert program("requirements").main(["gpus"]) == 1
    assert "there is no extra 'gpus'" in capsys.readouterr().err


def test_the_builder_is_sent_all_that_is_copied_and_no_state():
    """Each COPY from the checkout is let through by .dockerignore, which starts by keeping everything out."""
    rules = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = [
        source
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
        for source in sources.split()
    ]
    assert rules[0] == "*"
    assert {"models", "service", "training"} <= set(copied)
    assert [source for source in copied if not any(fnmatch.fnmatch(source, rule) for rule in allowed)] == []
    assert all((ROOT / source).exists() for source in copied)


def test_compose_publishes_on_the_loopback_address_only():
    """Without keys the default must not be reachable from another machine; inside it is told that this is meant."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    assert services["api"]["ports"] == ["${NEUROSERVE_PUBLISH:-127.0.0.1:8000}:8000"]
    assert services["api"]["environment"]["NEUROSERVE_ALLOW_OPEN_NETWORK"] == "true"
    assert "ports" not in services["trainer"]


def test_compose_names_its_service_as_a_host():
    """Prometheus and other containers call the service by that name, and need no key to be answered."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    given = services["api"]["environment"]["NEUROSERVE_ALLOWED_HOSTS"]
    guard = Guard(Settings(allowed_hosts=given.replace("${NEUROSERVE_ALLOWED_HOSTS:-}", "")))
    guard.check("POST", "/predict/digit", [(b"host", b"api:8000")])
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    (target,) = prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    guard.check("GET", "/metrics", [(b"host", target.encode())])


def test_both_services_run_without_privileges_on_one_volume():
    """Read-only root, no capability, one named volume at the place where the images keep their state."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    state = re.search(r"NEUROSERVE_STATE=(\S+)", DOCKERFILE)[1]
    assert {name for name, service in services.items() if "profiles" not in service} == {"api", "trainer"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for name in ("api", "trainer"):
        assert services[name]["volumes"] == [f"state:{state}"]


def test_the_profile_observe_mounts_what_is_there_and_opens_to_this_machine_only():
    """Prometheus and Grafana get files of the checkout read-only and a volume each; nobody can sign in."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    observers = {name: each for name, each in compose["services"].items() if each.get("profiles") == ["observe"]}
    assert set(observers) == {"prometheus", "grafana"}
    for service in observers.values():
        assert re.fullmatch(r"\S+:v?\d+\.\d+\.\d+", service["image"])
        mounts = [re.sub(r"^\$\{\w+:-(.+?)\}", r"\1", mount).split(":") for mount in service["volumes"]]
        assert all((ROOT / source).exists() and rest == ["ro"] for source, _, *rest in mounts if source[0] == ".")
        assert {source for source, *_ in mounts if source[0] != "."} < set(compose["volumes"])
    assert "ports" not in observers["prometheus"]
    assert observers["grafana"]["ports"] == ["${NEUROSERVE_GRAFANA_PUBLISH:-127.0.0.1:3000}:3000"]
    assert observers["grafana"]["environment"]["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert observers["grafana"]["environment"]["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"


def test_the_gpu_file_asks_for_a_gpu_and_nothing_less():
    """With the GPU file both services are built with CUDA and given a device, and the service refuses a CPU."""
    services = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text("utf-8"))["services"]
    assert services["api"]["environment"]["NEUROSERVE_DEVICE"] == "cuda"
    for service in services.values():
        assert service["build"]["args"]["EXTRAS"] == "gpu"
        [device] = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def test_the_postgres_file_gives_both_services_one_database():
    """The same address with the password from outside; the database keeps its files and is open to nobody else."""
    services = yaml.safe_load((ROOT / "docker-compose.postgres.yml").read_text("utf-8"))["services"]
    addresses = {services[name]["environment"]["NEUROSERVE_DATABASE_URL"] for name in ("api", "trainer")}
    assert len(addresses) == 1
    wanted = r"postgresql://neuroserve:\$\{NEUROSERVE_POSTGRES_PASSWORD:\?.+\}@database/jobs"
    assert re.fullmatch(wanted, addresses.pop())
    database = services["database"]
    assert "ports" not in database
    assert database["cap_drop"] == ["ALL"]
    assert database["volumes"] == ["database:/var/lib/postgresql/data"]


def test_pip_settings_of_the_machine_reach_the_build(tmp_path):
    """Lists of the environment and of files are united, the environment decides single values, folders are mounted."""
    mounts = program("pip_mounts")
    (tmp_path / "index" / "simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    settings = mounts.read(
        [
            ":env:.timeout='180'",
            f":env:.find-links='{tmp_path}/wheels'",
            "global.timeout='15'",
            f"global.find-links='{tmp_path}/wheels /nowhere'",
            f"global.extra-index-url='file://{tmp_path}/index/simple'",
            "global.user='true'",
        ]
    )
    assert settings == {
        "timeout": ["180"],
        "find-links": [f"{tmp_path}/wheels", "/nowhere"],
        "extra-index-url": [f"file://{tmp_path}/index/simple"],
    }
    assert mounts.places(settings) == [tmp_path / "wheels", tmp_path / "index"]
