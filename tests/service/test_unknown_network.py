"""`POST /train` for a network that the task lacks."""

import pytest

from models.jobs import Recipes
from service.settings import ZOO
from tests.service.test_train import serving

RECIPES = Recipes.model_validate_json((ZOO / "recipes.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("networks")) as client:
        yield client


@pytest.mark.parametrize("task", RECIPES.tasks)
def test_a_network_of_another_task_is_refused_with_the_list_of_this_one(client, task):
    """422, every network of the task in the sentence, and nothing queued; the same for a name nobody knows."""
    own = RECIPES.tasks[task].networks
    others = {name for recipe in RECIPES.tasks.values() for name in recipe.networks} - set(own)
    for network in [*sorted(others), "perceptron", "", next(iter(own)).upper()]:
        answer = client.post("/train", json={"task": task, "network": network})
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (422, "unknown_network"), answer.text
        assert all(name in problem["detail"] for name in own), problem["detail"]
    assert client.get("/train").json()["jobs"] == []
