//! The loss of one micro-batch and its gradients, of the U-Net and of what feeds it.

use std::ops::Add;

use burn::tensor::{Device, Tensor};
use temper_adapters::Parameters;
use temper_models::{
    AddedConditions, Gradients, NoiseSchedule, Unet, UnetInput, collect, diffusion_loss,
    group_weights, pulled,
};

use super::batch::{Batch, Texts, rows};
use super::networks::{CONTROL, Networks, UNET, gather};
use crate::Failure;
use crate::diffusion::Conditioning;

/// What the loss is made of; names as in the recipe.
#[derive(Clone, Debug)]
pub(super) struct Objective {
    /// Noise levels, and what is predicted.
    pub(super) noise: NoiseSchedule,
    /// Min-SNR's γ.
    pub(super) snr_gamma: Option<f64>,
    /// Weight of the class.
    pub(super) prior_loss_weight: f64,
    /// Layers of the text encoder that are left out.
    pub(super) clip_skip: usize,
    /// Recompute the inside of blocks in the backward pass.
    pub(super) recompute: bool,
}

impl Objective {
    /// The weight of every row's mean squared error: the loss is the mean over the instance plus the weighted mean over the class.
    pub(super) fn weights(&self, batch: &Batch) -> Result<Vec<f64>, Failure> {
        let groups = group_weights(&batch.is_class, self.prior_loss_weight);
        let prediction = self.noise.prediction();
        groups
            .into_iter()
            .zip(&batch.timesteps)
            .map(|(weight, &t)| {
                let at = self.noise.loss_weight(t, self.snr_gamma, prediction)?;
                Ok(weight * at)
            })
            .collect()
    }

    /// Adds loss and gradients of `count` rows from `start` on. `weights` are those of the whole batch.
    pub(super) fn accumulate(
        &self,
        networks: &Networks,
        batch: &Batch,
        weights: &[f64],
        [start, count]: [usize; 2],
        sums: &mut Sums,
    ) -> Result<Tensor<1>, Failure> {
        let Some(unet) = networks.unet() else {
            return Err(Failure::run("there is no U-Net to train"));
        };
        let text = self.text(networks, batch, [start, count])?;
        let hints = batch.hints.as_ref().map(|hints| rows(hints, start, count));
        let control = match (&networks.control, &hints) {
            (Some(control), Some(hints)) => Some(control.forward(hints)?),
            _ => None,
        };
        let (input, target) = self.noised(batch, [start, count], &text, control)?;
        let mask = batch.masks.as_ref().map(|masks| rows(masks, start, count));
        let weights = &weights[start..start + count];
        let loss = |prediction: Tensor<4>| {
            diffusion_loss(prediction, target.clone(), weights, mask.clone())
        };
        let step = unet.accumulate(&input, &loss, self.recompute, &mut sums.unet)?;
        let hidden = step.d_encoder_hidden_states;
        let hidden = hidden.map(|upstream| pulled(text.hidden, upstream));
        let both = text.pooled.zip(step.d_text_embeds);
        let pooled = both.map(|(pooled, upstream)| pulled(pooled, upstream));
        if let Some(text) = hidden.into_iter().chain(pooled).reduce(Add::add) {
            let mut gradients = text.backward();
            for (number, (_, encoder)) in networks.texts().enumerate() {
                let sums = &mut sums.texts[number];
                encoder.visit(&mut |param| collect(param, &mut gradients, sums));
            }
        }
        if let (Some(upstream), Some(hints), Some(control)) =
            (step.d_control, &hints, &networks.control)
        {
            control.accumulate(hints, upstream, &mut sums.control)?;
        }
        Ok(step.loss)
    }

    /// The rows' texts; in the graph of the text encoder where it is trained.
    fn text(
        &self,
        networks: &Networks,
        batch: &Batch,
        [start, count]: [usize; 2],
    ) -> Result<Conditioning, Failure> {
        match &batch.text {
            Texts::Encoded(text) => Ok(Conditioning {
                hidden: rows(&text.hidden, start, count),
                pooled: text
                    .pooled
                    .as_ref()
                    .map(|pooled| rows(pooled, start, count)),
            }),
            Texts::Prompts(prompts) => {
                let Some(pipeline) = networks.pipeline() else {
                    return Err(Failure::run("there is no text encoder"));
                };
                Ok(pipeline.encode_prompts(&prompts[start..start + count], self.clip_skip)?)
            }
        }
    }

    /// The U-Net's input and what it must predict.
    fn noised(
        &self,
        batch: &Batch,
        [start, count]: [usize; 2],
        text: &Conditioning,
        control: Option<Tensor<4>>,
    ) -> Result<(UnetInput, Tensor<4>), Failure> {
        let (latents, noise) = (
            rows(&batch.latents, start, count),
            rows(&batch.noise, start, count),
        );
        let steps = &batch.timesteps[start..start + count];
        let input_noise = match &batch.input_noise {
            Some(noise) => rows(noise, start, count),
            None => noise.clone(),
        };
        let target = self.noise.target(&latents, &noise, steps)?;
        let input = UnetInput {
            sample: self.noise.add_noise(&latents, &input_noise, steps)?,
            timesteps: steps.iter().map(|t| *t as f32).collect(),
            encoder_hidden_states: text.hidden.clone(),
            added: added(batch, text, [start, count]),
            control,
        };
        Ok((input, target))
    }

    /// Mean squared error of the prediction, without weights: what is compared between steps.
    pub(super) fn validate(
        &self,
        unet: &Unet,
        batch: &Batch,
        text: &Conditioning,
        control: Option<Tensor<4>>,
    ) -> Result<f64, Failure> {
        let (input, target) = self.noised(batch, [0, batch.rows()], text, control)?;
        let error = (unet.forward(&input)? - target).square().mean();
        Ok(f64::from(error.into_scalar::<f32>()))
    }
}

/// Gradients by network.
#[derive(Debug, Default)]
pub(super) struct Sums {
    unet: Gradients,
    texts: [Gradients; 2],
    control: Gradients,
}

impl Sums {
    /// All of them under the names that the trainer knows.
    pub(super) fn into_gradients(self, networks: &Networks, gradients: &mut Gradients) {
        gather(UNET, self.unet, gradients);
        gather(CONTROL, self.control, gradients);
        for ((name, _), sums) in networks.texts().zip(self.texts) {
            gather(name, sums, gradients);
        }
    }
}

fn added(
    batch: &Batch,
    text: &Conditioning,
    [start, count]: [usize; 2],
) -> Option<AddedConditions> {
    Some(AddedConditions {
        text_embeds: text.pooled.clone()?,
        time_ids: rows(batch.time_ids.as_ref()?, start, count),
    })
}

/// Which device the networks are on, for what is drawn on the host.
pub(super) fn device_of(networks: &Networks) -> Result<Device, Failure> {
    let mut device = None;
    networks.visit(&mut |param| {
        device.get_or_insert_with(|| param.plain().device());
    });
    device.ok_or_else(|| Failure::run("the model has no parameters"))
}
