//! Twenty steps of `AdamW` on an MLP with each method, against PyTorch and PEFT.

#![expect(
    clippy::unwrap_used,
    reason = "in a helper of a test, too, a failure is a failed test"
)]

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;
use temper_adapters::peft::{AdapterFile, Module};
use temper_adapters::weights::Checkpoint;
use temper_adapters::{
    Adaptable, AdaptedConv2d, AdaptedLinear, Param, Parameters, RandomSource, adapter_file,
    attach_trained,
};
use temper_datasets::random;
use temper_engine::train::{AdamW, OptimizerState, global_norm};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/oft");

/// `fc2(tanh(fc1(x)))`.
struct Mlp([AdaptedLinear; 2]);

impl Mlp {
    fn load(file: &Path) -> Self {
        let file = Checkpoint::open(file).unwrap();
        let param = |name: String| {
            let shape = &file.info(&name).unwrap().shape;
            let values = file.read_f32(&name).unwrap();
            let count = values.len();
            let value = Tensor::from_data(TensorData::new(values, [count]), &Device::flex());
            Param::new(name, shape, value)
        };
        Self(["fc1", "fc2"].map(|name| {
            let [weight, bias] = ["weight", "bias"].map(|part| param(format!("{name}.{part}")));
            AdaptedLinear::new(name, weight, Some(bias))
        }))
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [fc1, fc2] = &self.0;
        fc2.forward(fc1.forward(x).tanh())
    }
}

impl Parameters for Mlp {
    fn visit(&self, visit: &mut dyn FnMut(&Param)) {
        self.0.iter().for_each(|linear| linear.visit(visit));
    }

    fn visit_mut(&mut self, visit: &mut dyn FnMut(&mut Param)) {
        self.0.iter_mut().for_each(|linear| linear.visit_mut(visit));
    }
}

impl Adaptable for Mlp {
    fn modules(&self) -> Vec<Module> {
        let module = |linear: &AdaptedLinear| {
            let shape = linear.weight().shape();
            Module::linear(linear.module(), shape[1], shape[0]).with_bias()
        };
        self.0.iter().map(module).collect()
    }

    fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&mut AdaptedLinear)) {
        self.0.iter_mut().for_each(visit);
    }

    fn visit_convs_mut(&mut self, _visit: &mut dyn FnMut(&mut AdaptedConv2d)) {}
}

fn matrix(file: &Checkpoint, name: &str) -> Tensor<2> {
    let shape = &file.info(name).unwrap().shape;
    let shape = [shape[0], shape[1]];
    let data = TensorData::new(file.read_f32(name).unwrap(), shape);
    Tensor::from_data(data, &Device::flex())
}

/// One step: mean squared error, its gradients, an update, the projection. Returns the loss and the gradient's norm.
fn step(mlp: &mut Mlp, state: &mut OptimizerState, x: &Tensor<2>, target: &Tensor<2>) -> [f64; 2] {
    let error = mlp.forward(x.clone()) - Tensor::from_inner(target.clone());
    let loss = error.square().mean();
    let value = loss.clone().inner().into_scalar::<f32>();
    let mut gradients = loss.backward();
    let mut found = temper_models::Gradients::new();
    mlp.visit(&mut |param| {
        if let Some(gradient) = param.grad(&mut gradients) {
            found.insert(param.name().to_owned(), gradient);
        }
    });
    let (norm, broken) = global_norm(&found);
    assert_eq!(broken, None);
    state.begin_update();
    mlp.visit_mut(&mut |param| {
        if let Some(gradient) = found.remove(param.name()) {
            state.update(&AdamW::default(), 1e-2, param, gradient);
        }
    });
    mlp.project();
    [f64::from(value), norm]
}

/// The base model with the adapter in `folder`.
fn adapted(case: &Path, folder: &str) -> (Mlp, AdapterFile) {
    let mut mlp = Mlp::load(&case.join("base.safetensors"));
    let (file, _) = AdapterFile::load(&case.join(folder)).unwrap();
    let random = RandomSource::new(|purpose| random::rng(0, purpose, 0, 0));
    attach_trained(&mut mlp, &file, &random).unwrap();
    (mlp, file)
}

/// Twenty steps; returns the largest relative error of losses and gradient norms.
fn worst_of_curve(case: &Path, mlp: &mut Mlp, mut state: OptimizerState) -> f64 {
    let text = std::fs::read_to_string(case.join("curve.json")).unwrap();
    let curve: Value = serde_json::from_str(&text).unwrap();
    let io = Checkpoint::open(case.join("io.safetensors")).unwrap();
    let (x, target) = (matrix(&io, "x"), matrix(&io, "target"));
    let mut worst = 0.0_f64;
    for index in 0..20 {
        let ours = step(mlp, &mut state, &x, &target);
        for (ours, key) in ours.into_iter().zip(["losses", "grad_norms_before_clip"]) {
            let theirs = curve[key][index].as_f64().unwrap();
            worst = worst.max((ours - theirs).abs() / theirs);
        }
    }
    worst
}

fn follow(case: &str) {
    let folder = Path::new(GOLDEN).join(case);
    let (mut mlp, start) = adapted(&folder, "adapter_init");
    let worst = worst_of_curve(&folder, &mut mlp, OptimizerState::default());
    assert!(
        worst <= 1e-5,
        "{case}: worst relative error of the curve {worst:e}"
    );
    // PEFT projects when it next computes, so its file is from before the last projection; loading it projects.
    let (loaded, _) = adapted(&folder, "adapter_final");
    let [ours, end] = [&mlp, &loaded].map(|mlp| adapter_file(mlp, start.config()).unwrap());
    assert_eq!(ours.tensors().len(), end.tensors().len());
    for tensor in ours.tensors() {
        let theirs = end.get(&tensor.module, &tensor.slot).unwrap();
        let [ours, theirs] = [&tensor.tensor, theirs].map(|t| t.to_f32().unwrap());
        assert_near(&format!("{case} {}", tensor.module), &ours, &theirs);
    }
    let io = Checkpoint::open(folder.join("io.safetensors")).unwrap();
    let ours = mlp.frozen_output(matrix(&io, "x"));
    assert_near(
        &format!("{case} y_final"),
        &ours,
        &io.read_f32("y_final").unwrap(),
    );
}

impl Mlp {
    fn frozen_output(mut self, x: Tensor<2>) -> Vec<f32> {
        self.visit_mut(&mut |param| param.set_trainable(false));
        self.forward(x).into_data().try_to_vec().unwrap()
    }
}

fn assert_near(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}: number of values");
    let errors = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    let worst = errors.fold(0.0, f32::max);
    assert!(worst <= 1e-4, "{what}: worst error {worst:e}");
}

#[test]
fn oft_follows_peft() {
    follow("train_oft");
}

#[test]
fn oft_by_the_series_follows_peft() {
    follow("train_oft_cn");
}

#[test]
fn coft_follows_peft_with_a_projection_after_each_update() {
    follow("train_coft");
}

#[test]
fn lora_follows_peft() {
    follow("train_lora");
}

/// The tolerance is of use only if a broken formula breaks it: here, moments that are not corrected for their start.
#[test]
fn a_forgotten_bias_correction_would_show() {
    for case in ["train_oft", "train_oft_cn", "train_lora"] {
        let folder = Path::new(GOLDEN).join(case);
        let (mut mlp, _) = adapted(&folder, "adapter_init");
        let late = OptimizerState {
            updates: 1_000_000,
            ..OptimizerState::default()
        };
        let worst = worst_of_curve(&folder, &mut mlp, late);
        assert!(worst > 1e-2, "{case}: {worst:e}");
    }
}
