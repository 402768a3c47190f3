#![allow(missing_docs, unused, missing_debug_implementations)]
use std::path::Path;
use burn::tensor::*;
use serde_json::Value;
use temper_adapters::*;
use temper_adapters::peft::Module;
use temper_adapters::weights::*;
use crate::ModelError;
type R<T> = Result<T, ModelError>;
#[derive(Clone, Debug)] pub struct UnetConfig; 
#[derive(Clone, Copy, Debug)] pub struct TextTime { pub time_embed_dim: usize, pub input_dim: usize }
impl UnetConfig { pub fn from_json(v: &Value) -> R<Self> { todo!() } pub fn load(d: &Path) -> R<Self> { todo!() } pub fn in_channels(&self) -> usize { 8 } pub fn out_channels(&self) -> usize { 8 } pub fn cross_attention_dim(&self) -> usize { 8 } pub fn sample_size(&self) -> Option<usize> { None } pub fn addition(&self) -> Option<TextTime> { None } pub fn block_out_channels(&self) -> &[usize] { &[] } pub fn tensors(&self) -> Vec<(String, Vec<usize>)> { todo!() } pub fn modules(&self) -> Vec<Module> { todo!() } pub fn parameter_count(&self) -> usize { 0 } pub fn check_input(&self, i: &UnetInput) -> R<()> { todo!() } }
#[derive(Clone, Debug)]
pub struct UnetInput { pub sample: Tensor<4>, pub timesteps: Vec<f32>, pub encoder_hidden_states: Tensor<3>, pub added: Option<AddedConditions>, pub control: Option<Tensor<4>> }
#[derive(Clone, Debug)]
pub struct AddedConditions { pub text_embeds: Tensor<2>, pub time_ids: Tensor<2> }
pub struct Hidden { pub name: String, pub shape: Vec<usize>, pub values: Tensor<1> }
#[derive(Clone, Debug)] pub struct Unet { c: UnetConfig }
impl Unet { pub fn load(d: &Path, c: FloatDType, dev: &Device) -> R<Self> { todo!() } pub fn config(&self) -> &UnetConfig { &self.c } pub fn forward(&self, x: &UnetInput) -> R<Tensor<4>> { todo!() } pub fn forward_with_hidden(&self, x: &UnetInput) -> R<(Tensor<4>, Vec<Hidden>)> { todo!() } pub fn save(&self, d: &Path, t: Dtype, m: u64) -> R<()> { todo!() } }
macro_rules! ad { ($t:ty) => { impl Parameters for $t { fn visit(&self, v: &mut dyn FnMut(&Param)) {} fn visit_mut(&mut self, v: &mut dyn FnMut(&mut Param)) {} } impl Adaptable for $t { fn modules(&self) -> Vec<Module> { todo!() } fn visit_linears_mut(&mut self, v: &mut dyn FnMut(&mut AdaptedLinear)) {} } } }
ad!(Unet);
#[derive(Clone, Debug)] pub struct ControlEncoder; impl ControlEncoder { pub fn forward(&self, x: Tensor<4>) -> R<Tensor<4>> { todo!() } }
