"""The entry points of the nerfstudio plugin. nerfstudio imports this in every `ns-*` command, before anything else."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.plugins.types import MethodSpecification

from instance_nerfstudio.compat import allow_numpy_scalars_in_checkpoints
from instance_nerfstudio.errors import show_input_errors_as_one_line
from instance_nerfstudio.export.ns_export import extend_ns_export
from instance_nerfstudio.fused_adam import FusedAdamConfig
from instance_nerfstudio.instance_datamanager import InstanceDataManagerConfig
from instance_nerfstudio.instance_head import InstanceHeadConfig
from instance_nerfstudio.instance_pipeline import InstancePipelineConfig
from instance_nerfstudio.instance_trainer import InstanceTrainerConfig
from instance_nerfstudio.model_options import instance_nerfacto_model
from instance_nerfstudio.run_trainer import WHOLE_RUN
from instance_nerfstudio.splats.instance_splatfacto import InstanceSplatfactoModelConfig
from instance_nerfstudio.splats.splat_datamanager import SplatDataManagerConfig
from instance_nerfstudio.splats.splat_pipeline import SplatPipelineConfig
from instance_nerfstudio.splats.splat_trainer import SplatTrainerConfig

allow_numpy_scalars_in_checkpoints()
show_input_errors_as_one_line()
extend_ns_export()


def _adam(
    lr: float,
    lr_final: float,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    kind: type[AdamOptimizerConfig] = AdamOptimizerConfig,
) -> dict:
    return {
        "optimizer": kind(lr=lr, eps=1e-15, weight_decay=weight_decay),
        "scheduler": ExponentialDecaySchedulerConfig(lr_final=lr_final, warmup_steps=warmup_steps, max_steps=WHOLE_RUN),
    }


instance_nerfacto = MethodSpecification(
    config=InstanceTrainerConfig(
        method_name="instance-nerfacto",
        steps_per_eval_batch=500,
        steps_per_eval_image=500,
        steps_per_save=2000,
        max_num_iterations=10000,
        # Half precision is no faster without tiny-cuda-nn.
        mixed_precision=False,
        pipeline=InstancePipelineConfig(
            datamanager=InstanceDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(),
                train_num_rays_per_batch=4096,
                eval_num_rays_per_batch=4096,
            ),
            model=instance_nerfacto_model(),
        ),
        optimizers={
            # Decay empties the rows of the hash grids that few rays touch (as in Zip-NeRF, section 4): fewer floaters.
            "proposal_networks": _adam(1e-2, 1e-4, weight_decay=1e-6),
            "fields": _adam(1e-2, 1e-4, weight_decay=1e-6),
            "camera_opt": _adam(1e-3, 1e-4),
            "instance_head": _adam(1e-2, 1e-4),
        },
        # There is no login: the viewer listens on this machine alone unless told otherwise.
        viewer=ViewerConfig(num_rays_per_chunk=1 << 17, websocket_host="127.0.0.1"),
        vis="viewer+tensorboard",
    ),
    description="nerfacto with an instance field: every object keeps its identity from every camera.",
)


def _cpu() -> InstanceTrainerConfig:
    """The same method, small enough for two CPU cores."""
    config = deepcopy(instance_nerfacto.config)
    assert isinstance(config, InstanceTrainerConfig)
    config.method_name = "instance-nerfacto-cpu"
    config.machine = MachineConfig(device_type="cpu")
    config.max_num_iterations = 2500
    config.pipeline.datamanager = replace(
        config.pipeline.datamanager, train_num_rays_per_batch=1024, eval_num_rays_per_batch=1024
    )
    config.pipeline.model = replace(
        config.pipeline.model,
        implementation="torch",
        instance_start_step=800,
        num_levels=8,
        max_res=512,
        log2_hashmap_size=15,
        hidden_dim=32,
        hidden_dim_color=32,
        num_nerf_samples_per_ray=16,
        num_proposal_samples_per_ray=(40,),
        num_proposal_iterations=1,
        proposal_net_args_list=[
            {"hidden_dim": 16, "log2_hashmap_size": 14, "num_levels": 4, "max_res": 96, "use_linear": False}
        ],
        proposal_warmup=500,
        proposal_weights_anneal_max_num_iters=300,
        eval_num_rays_per_chunk=1 << 13,
        instance_head=InstanceHeadConfig(num_levels=6, max_res=256, log2_hashmap_size=14, hidden_dim=32),
    )
    return config


instance_nerfacto_cpu = MethodSpecification(
    config=_cpu(), description="instance-nerfacto small enough for a machine without a GPU."
)


def _splats() -> SplatTrainerConfig:
    constant = {
        "features_dc": 0.0025,
        "features_rest": 0.0025 / 20,
        "opacities": 0.05,
        "scales": 0.005,
        "quats": 0.001,
    }
    adam = partial(_adam, kind=FusedAdamConfig)
    return SplatTrainerConfig(
        method_name="instance-splatfacto",
        steps_per_eval_image=500,
        steps_per_eval_batch=0,
        steps_per_save=2000,
        steps_per_eval_all_images=100000,
        max_num_iterations=10000,
        mixed_precision=False,
        pipeline=SplatPipelineConfig(
            datamanager=SplatDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
            ),
            # A third of splatfacto's iterations: in rooms, held-out views and masks are better, not worse. Its schedule
            # would leave whole photos too few of them. Antialiased, small Gaussians lose in opacity what the blur of
            # the rasterizer adds to them, and don't swell over the edges of things.
            model=InstanceSplatfactoModelConfig(stop_split_at=7500, num_downscales=0, rasterize_mode="antialiased"),
        ),
        # Those of splatfacto, and the instances'.
        optimizers={
            "means": adam(1.6e-4, 1.6e-6),
            **{
                name: {"optimizer": FusedAdamConfig(lr=lr, eps=1e-15), "scheduler": None}
                for name, lr in constant.items()
            },
            "camera_opt": adam(1e-4, 5e-7, warmup_steps=1000),
            "bilateral_grid": adam(2e-3, 1e-4, warmup_steps=1000),
            "instance_features": adam(1e-2, 1e-3),
            "instance_head": adam(1e-2, 1e-3),
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15, websocket_host="127.0.0.1"),
        vis="viewer+tensorboard",
    )


instance_splatfacto = MethodSpecification(
    config=_splats(), description="splatfacto with instances: every Gaussian knows which object it belongs to."
)
