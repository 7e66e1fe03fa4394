"""The entry points: light to import, faithful through YAML, and closed to the network."""

from copy import deepcopy

import pytest
import yaml

from instance_nerfstudio.instance_trainer import InstanceTrainerConfig
from instance_nerfstudio.method_config import instance_nerfacto, instance_nerfacto_cpu

METHODS = {"instance-nerfacto": instance_nerfacto, "instance-nerfacto-cpu": instance_nerfacto_cpu}
# nerfstudio imports the entry points while it imports its own list of methods, in every command.
NOT_IMPORTED = (
    "nerfstudio.configs.method_configs",
    "trimesh",
    "h5py",
    "pycocotools",
    "rcnn.rooms",
    "rcnn.grids",
    "open3d",
    "transformers",
)


def test_import_is_light(fresh_process):
    assert "instance_nerfstudio.method_config" in fresh_process["modules"]
    assert not set(NOT_IMPORTED) & set(fresh_process["modules"])


@pytest.mark.parametrize("name", METHODS)
def test_names_and_descriptions(name):
    assert METHODS[name].config.method_name == name
    assert len(METHODS[name].description) > 20


@pytest.mark.parametrize("name", METHODS)
def test_config_survives_yaml(name):
    """As `config.yml` is written by `ns-train` and read by the other commands."""
    config = METHODS[name].config
    text = yaml.dump(deepcopy(config))
    again = yaml.load(text, Loader=yaml.Loader)
    assert isinstance(again, InstanceTrainerConfig)
    assert again == config
    assert yaml.dump(again) == text


@pytest.mark.parametrize("name", METHODS)
def test_every_group_of_parameters_has_an_optimizer(name):
    assert set(METHODS[name].config.optimizers) == {"proposal_networks", "fields", "camera_opt", "instance_head"}


@pytest.mark.parametrize("name", METHODS)
def test_viewer_listens_on_this_machine_alone(name):
    assert METHODS[name].config.viewer.websocket_host == "127.0.0.1"
    assert not METHODS[name].config.viewer.make_share_url


def test_methods_share_no_state():
    a, b = instance_nerfacto.config, instance_nerfacto_cpu.config
    assert a.pipeline is not b.pipeline
    assert a.optimizers["fields"]["scheduler"] is not b.optimizers["fields"]["scheduler"]
    assert (a.machine.device_type, b.machine.device_type) == ("cuda", "cpu")
