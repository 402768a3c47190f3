//! Times training steps of a UNet on the CPU, and prints them as JSON: the Temper side of `scripts/bench_diffusers.py`.
//!
//! ```text
//! unet_step UNET INPUTS METHOD STEPS [ADAPTER]
//! ```
//! UNET is a diffusers directory. INPUTS is a safetensors file with `sample [B, 4, H, W]`, `timesteps [B]`,
//! `encoder_hidden_states [B, S, D]` and `target`, all f32. METHOD is `forward`, `full`, or `adapter` with a PEFT directory.
//! A step is the prediction, the mean squared error and, unless METHOD is `forward`, all gradients.
#![expect(clippy::print_stdout, reason = "the result of the program")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use temper_adapters::peft::AdapterFile;
use temper_adapters::weights::Checkpoint;
use temper_adapters::{Parameters, RandomSource, attach_trained};
use temper_models::{Gradients, Unet, UnetInput};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, unet, inputs, method, steps, adapter @ ..] = arguments.as_slice() else {
        return Err("usage: unet_step UNET INPUTS METHOD STEPS [ADAPTER]".into());
    };
    let device = Device::flex();
    let mut unet = Unet::load(Path::new(unet), FloatDType::F32, &device)?;
    match method.as_str() {
        "full" => unet.visit_mut(&mut |param| param.set_trainable(true)),
        "adapter" => {
            let directory = adapter.first().ok_or("METHOD adapter needs ADAPTER")?;
            let (file, _) = AdapterFile::load(Path::new(directory))?;
            let random = RandomSource::new(|_| ChaCha8Rng::seed_from_u64(0));
            attach_trained(&mut unet, &file, &random)?;
        }
        "forward" => (),
        other => return Err(format!("METHOD is forward, full or adapter, not `{other}`").into()),
    }
    let file = Checkpoint::open(Path::new(inputs))?;
    let input = UnetInput {
        sample: tensor(&file, "sample", &device)?,
        timesteps: file.read_f32("timesteps")?,
        encoder_hidden_states: tensor(&file, "encoder_hidden_states", &device)?,
        added: None,
        control: None,
    };
    let target: Tensor<4> = tensor(&file, "target", &device)?;
    let error = |prediction: Tensor<4>| (prediction - target.clone()).square().mean();
    let (mut losses, mut norms, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..steps.parse::<usize>()? {
        let begin = Instant::now();
        let mut sums = Gradients::new();
        let loss = if method == "forward" {
            error(unet.forward(&input)?)
        } else {
            unet.accumulate(&input, &error, false, &mut sums)?.loss
        };
        losses.push(loss.into_scalar::<f32>());
        seconds.push(begin.elapsed().as_secs_f64());
        let square = |gradient: Tensor<1>| f64::from(gradient.square().sum().into_scalar::<f32>());
        let squares = sums.into_values().map(square);
        norms.push(squares.fold(0.0, |sum, value| sum + value).sqrt());
    }
    let trained = unet.count(true);
    let report = serde_json::json!({
        "losses": losses, "gradient_norms": norms, "seconds": seconds, "trained": trained,
    });
    println!("{report}");
    Ok(())
}

fn tensor<const D: usize>(
    file: &Checkpoint,
    name: &str,
    device: &Device,
) -> Result<Tensor<D>, Box<dyn Error>> {
    let shape = file
        .info(name)
        .ok_or("a tensor of INPUTS is missing")?
        .shape
        .clone();
    let shape: [usize; D] = shape
        .try_into()
        .map_err(|shape| format!("`{name}` has shape {shape:?}, expected {D} dimensions"))?;
    Ok(Tensor::from_data(
        TensorData::new(file.read_f32(name)?, shape),
        device,
    ))
}
