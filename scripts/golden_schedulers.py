"""Writes tests/golden/diffusion/schedulers/more_*: what diffusers computes with settings beyond its defaults.

    pip install torch==2.15.0 diffusers==0.42.1
    python scripts/golden_schedulers.py

Each case holds scheduler_config.json and io.safetensors: x_init (unit noise), noise (one row a call, used where the sampler asks
for fresh noise), init_noise_sigma, timesteps, trajectory (row 0 = x_init * init_noise_sigma, then after each call). The model is
0.5 sin(1.3 x + 0.002 t) + 0.25 x on the scaled input.
"""

import json
import pathlib
import sys

import diffusers
import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent.parent / "tests/golden/diffusion/schedulers"
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V = {"prediction_type": "v_prediction"}
ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} | V
DPM, UNI, EULER = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler"

CASES = {
    "ddpm": ("DDPMScheduler", 10, {"clip_sample": False}),
    "ddpm_clip_large_linspace": ("DDPMScheduler", 7, {"variance_type": "fixed_large", "timestep_spacing": "linspace"}),
    "ddpm_v_zsnr": ("DDPMScheduler", 10, {"clip_sample": False} | ZERO),
    "ddim_eta_clip": ("DDIMScheduler", 7, {"clip_sample_range": 1.5, "timestep_spacing": "linspace"}),
    "ddim_sample_cosine": ("DDIMScheduler", 8, {"clip_sample": False, "prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"}),
    "pndm_v_trailing": ("PNDMScheduler", 9, {"skip_prk_steps": True, "set_alpha_to_one": True, "timestep_spacing": "trailing"} | V),
    "euler_v_zsnr": (EULER, 10, ZERO),
    "euler_25_sigma_min": (EULER, 25, {"final_sigmas_type": "sigma_min"}),
    "euler_karras_bounds": (EULER, 9, {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 12.0, "timestep_spacing": "leading", "steps_offset": 1}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", 10, {"timestep_spacing": "leading", "steps_offset": 1}),
    "euler_ancestral_v_zsnr": ("EulerAncestralDiscreteScheduler", 7, ZERO),
    "heun_v_karras_clip": ("HeunDiscreteScheduler", 6, {"use_karras_sigmas": True, "clip_sample": True, "clip_sample_range": 2.0} | V),
    "dpmpp_2m_20": (DPM, 20, {"timestep_spacing": "leading", "steps_offset": 1}),
    "dpmpp_2m_16_sigma_min": (DPM, 16, {"final_sigmas_type": "sigma_min", "solver_type": "heun"}),
    "dpmpp_2m_karras_sigma_min": (DPM, 8, {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}),
    "dpmpp_2m_v_zsnr": (DPM, 10, ZERO),
    "dpmpp_2m_order1": (DPM, 10, {"solver_order": 1, "timestep_spacing": "trailing"}),
    "dpmpp_2m_sde": (DPM, 10, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2m_sde_heun_karras": (DPM, 17, {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun", "use_karras_sigmas": True}),
    "unipc_bh1_3": (UNI, 12, {"solver_type": "bh1", "solver_order": 3, "timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"}),
    "unipc_v_karras": (UNI, 10, {"use_karras_sigmas": True, "disable_corrector": [0, 3]} | V),
    "unipc_v_zsnr_3": (UNI, 10, {"solver_order": 3} | ZERO),
    "unipc_sigma_min_high_order_end": (UNI, 10, {"final_sigmas_type": "sigma_min", "lower_order_final": False, "timestep_spacing": "leading"}),
}
ETA = {"ddim_eta_clip": 0.7}


def run(name, kind, steps, settings):
    scheduler = getattr(diffusers, kind)(**SD | settings)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    draw = lambda: torch.randn(1, 2, 3, 3, generator=generator)
    x_init = draw()
    noise = [draw() for _ in scheduler.timesteps]
    module = sys.modules[type(scheduler).__module__]
    x = x_init * scheduler.init_noise_sigma
    rows = [x]
    for call, t in enumerate(scheduler.timesteps):
        module.randn_tensor = lambda *_, call=call, **__: noise[call]
        scaled = scheduler.scale_model_input(x, t)
        output = 0.5 * torch.sin(1.3 * scaled + 0.002 * t) + 0.25 * scaled
        options = {"eta": ETA[name]} if name in ETA else {}
        x = scheduler.step(output, t, x, **options).prev_sample
        rows.append(x)
    folder = HERE / f"more_{name}"
    folder.mkdir(parents=True, exist_ok=True)
    scheduler.save_config(folder)
    file = folder / "scheduler_config.json"
    if name in ETA:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"eta": ETA[name]}, indent=2, sort_keys=True) + "\n")
    as_tensor = lambda value: torch.as_tensor(value, dtype=torch.float32).reshape(-1)
    save_file(
        {
            "x_init": x_init,
            "noise": torch.stack(noise),
            "trajectory": torch.stack(rows).float().contiguous(),
            "timesteps": as_tensor(scheduler.timesteps),
            "init_noise_sigma": as_tensor(scheduler.init_noise_sigma),
        },
        folder / "io.safetensors",
    )
    print(f"{name}: {len(rows) - 1} calls, last {rows[-1].abs().max():.3f}")


for name, (kind, steps, settings) in CASES.items():
    run(name, kind, steps, settings)
