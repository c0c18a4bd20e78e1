"""The environment variables: settings, Kubernetes's own, and typing errors."""

import pytest

from models.environment import NAMES, check, distance
from service.settings import Settings

KUBERNETES = {
    "NEUROSERVE_PORT": "tcp://10.96.12.7:8000",
    "NEUROSERVE_SERVICE_HOST": "10.96.12.7",
    "NEUROSERVE_SERVICE_PORT": "8000",
    "NEUROSERVE_SERVICE_PORT_HTTP": "8000",
    "NEUROSERVE_PORT_8000_TCP": "tcp://10.96.12.7:8000",
    "NEUROSERVE_PORT_8000_TCP_PROTO": "tcp",
    "NEUROSERVE_PORT_8000_TCP_PORT": "8000",
    "NEUROSERVE_PORT_8000_TCP_ADDR": "10.96.12.7",
    "NEUROSERVE_GRPC_PORT": "TCP://10.96.12.8:8001",
    "NEUROSERVE_GRPC_SERVICE_HOST": "10.96.12.8",
    "NEUROSERVE_TRAINER_PORT_53_UDP": "udp://10.96.12.9:53",
}


def test_the_names_are_those_of_the_settings():
    """The worker, which does not know the service's class, must know its names; add a new setting to both."""
    assert {f"NEUROSERVE_{name.upper()}" for name in Settings.model_fields} - NAMES == set()


def test_what_kubernetes_says_of_a_service_named_neuroserve_is_no_setting():
    """None of it forbids the start, and one line tells of the names that a setting has."""
    environ = dict(KUBERNETES)
    found = check(environ)
    assert found.refusal is None
    (note,) = found.notes
    assert "NEUROSERVE_PORT," in note
    assert "NEUROSERVE_GRPC_PORT" in note
    assert "NEUROSERVE_PORT" not in environ
    assert "NEUROSERVE_GRPC_PORT" not in environ


def test_an_address_is_no_value_of_any_setting(monkeypatch):
    """Whoever reads the settings gets the default."""
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("neuroserve_database_url", " tcp://10.96.12.7:5432")
    settings = Settings()
    assert (settings.port, settings.grpc_port, settings.database_url) == (8000, None, None)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("PROT", "PORT"),
        ("POTR", "PORT"),
        ("PRT", "PORT"),
        ("PORTS", "PORT"),
        ("WORKER", "WORKERS"),
        ("API_KEYES", "API_KEYS"),
        ("DATABSE_ULR", "DATABASE_URL"),
        ("AlOWED_HOST", "ALLOWED_HOSTS"),
        ("URLS", "URL"),
    ],
)
def test_a_name_within_two_letters_of_a_setting_is_a_typing_error(written, meant):
    """A setting that does nothing is worse than a service that does not start."""
    found = check({f"NEUROSERVE_{written}": "1"})
    assert found.refusal == f"NEUROSERVE_{written.upper()} is not a setting; did you mean NEUROSERVE_{meant}?"


def test_names_that_are_known_or_far_from_all_are_no_error():
    """The client's and compose's names are known; another is a line for the log."""
    environ = dict.fromkeys(NAMES, "1") | {"NEUROSERVE_SOMETHING_ELSE": "1", "OTHER_PROT": "1", "NEUROSERVE_NEW": "1"}
    found = check(environ, known=["NEUROSERVE_NEW"])
    assert found.refusal is None
    assert found.notes == ["ignored NEUROSERVE_SOMETHING_ELSE: no settings of this version"]


def test_no_name_of_ours_looks_like_a_typing_error_of_kubernetes():
    """The pattern of Kubernetes's names must not swallow a typing error."""
    assert check({"NEUROSERVE_GRPC_PROT": "1"}).refusal.endswith("did you mean NEUROSERVE_GRPC_PORT?")


@pytest.mark.parametrize(
    ("one", "other", "steps"),
    [("PORT", "PORT", 0), ("PROT", "PORT", 1), ("PRT", "PORT", 1), ("PORTER", "PORT", 2), ("A", "ABCD", 3)],
)  # fmt: skip
def test_letters_are_put_in_left_out_changed_and_swapped(one, other, steps):
    """Each is one step."""
    assert distance(one, other) == distance(other, one) == steps
