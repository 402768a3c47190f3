//! Every OFT, COFT, LoRA and DoRA case of `tests/golden/oft` on an MLP or a convolution, against PEFT 0.21.2.
//! Tolerances are those of the goldens' README; kernels above 1 are compared with PEFT's MERGED weights, because its un-merged forward is wrong there.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use temper_adapters::peft::{AdapterFile, Module, ModuleKind, Slot};
use temper_adapters::weights::Checkpoint;
use temper_adapters::{
    Adaptable, AdaptedConv2d, AdaptedLinear, Adapter, Param, Parameters, RandomSource,
    adapter_file, attach, attach_trained,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/oft");

/// `fc2(tanh(fc1(x)))`, or one convolution.
#[derive(Clone)]
struct Toy {
    linears: Vec<AdaptedLinear>,
    conv: Option<AdaptedConv2d>,
}

impl Toy {
    fn load(case: &Path) -> Self {
        let file = Checkpoint::open(case.join("base.safetensors")).unwrap();
        let param = |name: &str| {
            let shape = file.info(name).unwrap().shape.clone();
            let values = file.read_f32(name).unwrap();
            let n = values.len();
            Param::new(
                name,
                &shape,
                Tensor::from_data(TensorData::new(values, [n]), &Device::flex()),
            )
        };
        if file.info("conv.weight").is_some() {
            let name = case.file_name().unwrap().to_str().unwrap();
            let stride = if name.ends_with("s2") { 2 } else { 1 };
            let padding = usize::from(!name.contains("1x1"));
            let conv = AdaptedConv2d::new(
                "conv",
                param("conv.weight"),
                Some(param("conv.bias")),
                [stride; 2],
                [padding; 2],
            );
            return Self {
                linears: vec![],
                conv: Some(conv),
            };
        }
        let linear = |name: &str| {
            AdaptedLinear::new(
                name,
                param(&format!("{name}.weight")),
                Some(param(&format!("{name}.bias"))),
            )
        };
        Self {
            linears: vec![linear("fc1"), linear("fc2")],
            conv: None,
        }
    }

    fn forward(&self, x: &Input) -> Tensor<1> {
        let flat = |y: Vec<usize>| y.iter().product::<usize>();
        match (&self.conv, self.linears.as_slice()) {
            (Some(conv), _) => {
                let y = conv.forward(x.tensor::<4>());
                let n = flat(y.dims().to_vec());
                y.reshape([n])
            }
            (None, [fc1, fc2]) => {
                let width = *x.shape.last().unwrap();
                let rows = flat(x.shape.clone()) / width;
                let y = fc2.forward(fc1.forward(x.tensor::<1>().reshape([rows, width])).tanh());
                let n = flat(y.dims().to_vec());
                y.reshape([n])
            }
            _ => unreachable!(),
        }
    }
}

impl Parameters for Toy {
    fn visit(&self, visit: &mut dyn FnMut(&Param)) {
        self.linears.iter().for_each(|linear| linear.visit(visit));
        self.conv.iter().for_each(|conv| conv.visit(visit));
    }

    fn visit_mut(&mut self, visit: &mut dyn FnMut(&mut Param)) {
        self.linears
            .iter_mut()
            .for_each(|linear| linear.visit_mut(visit));
        self.conv.iter_mut().for_each(|conv| conv.visit_mut(visit));
    }
}

impl Adaptable for Toy {
    fn modules(&self) -> Vec<Module> {
        let linear = |l: &AdaptedLinear| {
            Module::linear(l.module(), l.weight().shape()[1], l.weight().shape()[0]).with_bias()
        };
        let conv = |c: &AdaptedConv2d| {
            let shape = c.weight().shape();
            let kind = ModuleKind::Conv2d {
                inputs: shape[1],
                outputs: shape[0],
                kernel: [shape[2], shape[3]],
            };
            Module::new(c.module(), kind).with_bias()
        };
        self.linears
            .iter()
            .map(linear)
            .chain(self.conv.iter().map(conv))
            .collect()
    }

    fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&mut AdaptedLinear)) {
        self.linears.iter_mut().for_each(visit);
    }

    fn visit_convs_mut(&mut self, visit: &mut dyn FnMut(&mut AdaptedConv2d)) {
        self.conv.iter_mut().for_each(visit);
    }
}

struct Input {
    values: Vec<f32>,
    shape: Vec<usize>,
}

impl Input {
    fn read(file: &Checkpoint, name: &str) -> Self {
        Self {
            values: file.read_f32(name).unwrap(),
            shape: file.info(name).unwrap().shape.clone(),
        }
    }

    fn tensor<const D: usize>(&self) -> Tensor<D> {
        let n = self.values.len();
        let flat =
            Tensor::<1>::from_data(TensorData::new(self.values.clone(), [n]), &Device::flex());
        let mut shape = [n; D];
        if D > 1 {
            shape.copy_from_slice(&self.shape);
        }
        flat.reshape(shape)
    }
}

fn random() -> RandomSource {
    RandomSource::new(|purpose| ChaCha8Rng::seed_from_u64(purpose.len() as u64))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let tensor = if tensor.is_autodiff() {
        tensor.inner()
    } else {
        tensor
    };
    tensor.into_data().try_to_vec().unwrap()
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32], rtol: f32, atol: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}: number of values");
    let worst = ours
        .iter()
        .zip(theirs)
        .map(|(a, b)| (a - b).abs() / (atol + rtol * b.abs()))
        .fold(0.0, f32::max);
    assert!(
        worst <= 1.0,
        "{what}: worst error is {worst} times the tolerance"
    );
}

/// The cases with an MLP or a convolution and a method that is built.
fn cases() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(GOLDEN)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let toy = ["mlp_", "lora_", "oft_conv"]
                .iter()
                .any(|prefix| name.starts_with(prefix));
            toy && path.join("adapter").exists()
        })
        .collect();
    found.sort();
    assert!(found.len() >= 23, "{} cases found", found.len());
    found
}

fn is_broken_in_peft(case: &Path) -> bool {
    let text = std::fs::read_to_string(case.join("case.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["truth"] == "y_merged"
}

#[test]
fn forward_merge_and_gradients_match_peft() {
    for case in cases() {
        let name = case.file_name().unwrap().to_str().unwrap();
        let io = Checkpoint::open(case.join("io.safetensors")).unwrap();
        let x = Input::read(&io, "in.x");
        let mut toy = Toy::load(&case);
        assert_close(
            name,
            &values(toy.forward(&x)),
            &io.read_f32("y_base").unwrap(),
            1e-4,
            1e-5,
        );
        let (file, _) = AdapterFile::load(&case.join("adapter")).unwrap();
        attach_trained(&mut toy, &file, &random())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let y = toy.forward(&x);
        let broken = is_broken_in_peft(&case);
        let truth = if broken { "y_merged" } else { "y_adapter" };
        let expected = io.read_f32(truth).unwrap();
        assert_close(
            &format!("{name} {truth}"),
            &values(y.clone()),
            &expected,
            1e-4,
            1e-5,
        );
        if !broken {
            let weights = Input::read(&io, "loss_w").tensor::<1>();
            let loss = (y * Tensor::from_inner(weights))
                .sum()
                .div_scalar(expected.len() as f64);
            check_gradients(name, &toy, loss, &io);
        }
        check_merge(name, toy, &x, &io);
    }
}

fn check_gradients(name: &str, toy: &Toy, loss: Tensor<1>, io: &Checkpoint) {
    let value = values(loss.clone())[0];
    let expected = io.read_f32("loss").unwrap()[0];
    assert!(
        (value - expected).abs() <= 1e-5 + 1e-4 * expected.abs(),
        "{name}: loss {value} vs {expected}"
    );
    let mut gradients = loss.backward();
    let mut checked = 0;
    toy.visit(&mut |param| {
        if !param.is_trainable() {
            return;
        }
        let got = values(
            param
                .grad(&mut gradients)
                .unwrap_or_else(|| panic!("{name}: no gradient of {}", param.name())),
        );
        let plain = param.name().trim_end_matches(".weight");
        let (module, part) = param.name().rsplit_once('.').unwrap();
        let golden = [
            format!("grad.{}", param.name()),
            format!("grad.{plain}.weight"),
            format!("grad.base_model.model.{module}.base_layer.{part}"),
            format!("grad.base_model.model.{module}.modules_to_save.{part}"),
            format!("grad.base_model.model.{}", param.name()),
        ];
        let golden = golden
            .iter()
            .find(|key| io.info(key).is_some())
            .unwrap_or_else(|| panic!("{name}: {golden:?}"));
        assert_close(
            &format!("{name} {golden}"),
            &got,
            &io.read_f32(golden).unwrap(),
            1e-3,
            1e-6,
        );
        checked += 1;
    });
    let all = io.names().filter(|key| key.starts_with("grad.")).count();
    assert_eq!(
        checked, all,
        "{name}: every trained tensor has a gradient, and no other"
    );
}

fn check_merge(name: &str, mut toy: Toy, x: &Input, io: &Checkpoint) {
    toy.linears.iter_mut().for_each(AdaptedLinear::merge);
    assert_close(
        &format!("{name} y_merged"),
        &values(toy.forward(x)),
        &io.read_f32("y_merged").unwrap(),
        1e-4,
        1e-5,
    );
    let mut merged: Vec<(String, Vec<f32>)> = toy
        .linears
        .iter()
        .map(|l| (l.weight().name().to_owned(), values(l.weight().plain())))
        .collect();
    merged.extend(
        toy.conv
            .iter()
            .map(|c| (c.weight().name().to_owned(), values(c.effective_weight()))),
    );
    for (weight, got) in merged {
        if io.info(&format!("merged.{weight}")).is_some() {
            let expected = io.read_f32(&format!("merged.{weight}")).unwrap();
            assert_close(
                &format!("{name} merged {weight}"),
                &got,
                &expected,
                1e-4,
                1e-5,
            );
        }
    }
}

#[test]
fn a_fresh_adapter_leaves_the_output_bit_for_bit_unchanged() {
    for case in cases() {
        let name = case.file_name().unwrap().to_str().unwrap();
        let io = Checkpoint::open(case.join("io.safetensors")).unwrap();
        let x = Input::read(&io, "in.x");
        let mut toy = Toy::load(&case);
        let before = values(toy.forward(&x));
        let (file, _) = AdapterFile::load(&case.join("adapter")).unwrap();
        attach(&mut toy, file.config(), &random()).unwrap();
        // Without a graph on both sides: while training, products are summed in another order.
        let after = values(toy.frozen().forward(&x));
        // DoRA divides by a norm and multiplies by it again, which rounds.
        let tolerance = if name == "lora_dora" { 1e-6 } else { 0.0 };
        assert_close(
            name,
            &after,
            &before,
            tolerance,
            f32::MIN_POSITIVE.max(tolerance),
        );
    }
}

#[test]
fn coft_saves_projected_values_and_plain_oft_saves_what_it_loaded() {
    for case in cases() {
        let name = case.file_name().unwrap().to_str().unwrap();
        let io = Checkpoint::open(case.join("io.safetensors")).unwrap();
        let mut toy = Toy::load(&case);
        let (file, _) = AdapterFile::load(&case.join("adapter")).unwrap();
        attach_trained(&mut toy, &file, &random()).unwrap();
        let saved = adapter_file(&toy, file.config()).unwrap();
        assert_eq!(
            saved.tensors().len(),
            file.tensors().len(),
            "{name}: same set of tensors"
        );
        for tensor in saved.tensors() {
            let original = file
                .get(&tensor.module, &tensor.slot)
                .unwrap()
                .to_f32()
                .unwrap();
            let key = format!("projected.base_model.model.{}.oft_R.weight", tensor.module);
            let projected = tensor.slot == Slot::OftR && io.info(&key).is_some();
            let expected = if projected {
                io.read_f32(&key).unwrap()
            } else {
                original
            };
            assert_close(
                &format!("{name} {}", tensor.module),
                &tensor.tensor.to_f32().unwrap(),
                &expected,
                1e-5,
                1e-7,
            );
        }
    }
}

#[test]
fn coft_holds_its_constraint_after_an_update_that_breaks_it() {
    let case = Path::new(GOLDEN).join("mlp_coft_exact");
    let mut toy = Toy::load(&case);
    let (file, _) = AdapterFile::load(&case.join("adapter")).unwrap();
    attach_trained(&mut toy, &file, &random()).unwrap();
    let Some(Adapter::Oft(oft)) = toy.linears[0].adapter_mut() else {
        panic!("an OFT adapter")
    };
    let tau = oft.spec().tau.unwrap() as f32;
    let n = oft.parameter().numel();
    oft.parameter_mut()
        .set(Tensor::ones([n], &Device::flex()).mul_scalar(10.0));
    oft.project();
    let columns = oft.parameter().shape()[1];
    for block in values(oft.parameter().plain()).chunks(columns) {
        let norm = (2.0 * block.iter().map(|v| v * v).sum::<f32>()).sqrt();
        assert!(
            norm <= tau * (1.0 + 1e-6) && norm > tau * 0.999,
            "‖Q‖ = {norm}, τ = {tau}"
        );
    }
}

#[test]
fn unmerging_gives_the_weight_back_even_when_the_series_is_not_orthogonal() {
    let case = Path::new(GOLDEN).join("mlp_cn_k2");
    let mut toy = Toy::load(&case);
    let (file, _) = AdapterFile::load(&case.join("adapter")).unwrap();
    attach_trained(&mut toy, &file, &random()).unwrap();
    let linear = &toy.linears[0];
    let Some(Adapter::Oft(oft)) = linear.adapter() else {
        panic!("an OFT adapter")
    };
    assert!(
        oft.orthogonality_error() > 1e-3,
        "two terms are far from orthogonal"
    );
    let original = linear.weight().matrix();
    let back = oft.unmerge(linear.effective_weight().inner());
    assert_close("unmerged", &values(back), &values(original), 1e-4, 1e-5);
}
