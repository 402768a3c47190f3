//! Loss and gradients of one micro-batch.

use burn::tensor::{FloatDType, Tensor};
use temper_adapters::Parameters;

use super::model::size_of;
use super::segment::{Conditions, Segment};
use super::{AddedConditions, Unet, UnetInput};
use crate::gradients::{add, backward_from, collect, leaf, tracked};
use crate::layers::{self, is_trained};
use crate::ops::plain;
use crate::{Gradients, ModelError};

/// What [`Unet::accumulate`] gives back besides the gradients of the parameters.
#[derive(Clone, Debug)]
pub struct UnetStep {
    /// The loss, plain.
    pub loss: Tensor<1>,
    /// Gradient of the text embeddings, f32, plain; there when they were tracked.
    pub d_encoder_hidden_states: Option<Tensor<3>>,
    /// Gradient of the pooled text embeddings (SDXL), f32, plain; there when they were tracked.
    pub d_text_embeds: Option<Tensor<2>>,
    /// Gradient of the control, f32, plain; there when it was tracked.
    pub d_control: Option<Tensor<4>>,
}

/// What a segment was given, kept for its backward pass.
struct Kept {
    h: Tensor<4>,
    /// The skip, and the segment that it came from.
    skip: Option<(usize, Tensor<4>)>,
    size: [usize; 2],
}

/// The conditions as leaves of the segments' graphs, and the sums of their gradients.
struct Leaves {
    emb: Tensor<2>,
    text: Tensor<3>,
    control: Option<Tensor<4>>,
    d_emb: Option<Tensor<2>>,
    d_text: Option<Tensor<3>>,
    d_control: Option<Tensor<4>>,
}

/// What is wanted of the embedding of timesteps and pooled texts.
#[derive(Clone, Copy, PartialEq)]
enum Wish {
    Nothing,
    Parameters,
    /// Also the gradient of the pooled texts.
    Pooled,
}

/// Which gradients are wanted besides those of the segments' parameters.
#[derive(Clone, Copy)]
struct Wanted {
    embedding: Wish,
    text: bool,
    control: bool,
}

impl Unet {
    /// `loss` of the prediction (`[B, out_channels, H, W]`, f32), and the gradient of every trained parameter, added to `sums`.
    ///
    /// Gradients of `encoder_hidden_states`, `text_embeds` and `control` are returned when these are tracked; whatever graph they come from is
    /// not walked: continue there with [`pulled`](crate::pulled). Nothing is differentiated below the first
    /// trained parameter, and nothing for frozen ones.
    ///
    /// With `recompute` only the inputs of the segments (one residual block with its transformer, one sampler) are kept, and
    /// their insides are computed again in the backward pass: the memory of one segment instead of all, for one more forward
    /// pass (Chen et al., arXiv 1604.06174). The gradients are the same.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn accumulate(
        &self,
        input: &UnetInput,
        loss: &dyn Fn(Tensor<4>) -> Tensor<1>,
        recompute: bool,
        sums: &mut Gradients,
    ) -> Result<UnetStep, ModelError> {
        self.config().check_input(input)?;
        let (added, control) = (input.added.as_ref(), input.control.as_ref());
        let pooled = added.is_some_and(|added| tracked(&added.text_embeds));
        let embedding = match (pooled, is_trained(&self.embeddings)) {
            (true, _) => Wish::Pooled,
            (false, true) => Wish::Parameters,
            (false, false) => Wish::Nothing,
        };
        let wanted = Wanted {
            embedding,
            text: tracked(&input.encoder_hidden_states),
            control: control.is_some_and(tracked),
        };
        let input = UnetInput {
            sample: plain(&input.sample),
            encoder_hidden_states: plain(&input.encoder_hidden_states).cast(FloatDType::F32),
            added: pooled_as(added, |pooled| plain(&pooled)),
            control: control.map(|control| plain(control).cast(FloatDType::F32)),
            ..input.clone()
        };
        if recompute {
            Ok(self.accumulate_by_segments(&input, loss, wanted, sums))
        } else {
            self.accumulate_whole(input, loss, wanted, sums)
        }
    }

    fn accumulate_whole(
        &self,
        input: UnetInput,
        loss: &dyn Fn(Tensor<4>) -> Tensor<1>,
        wanted: Wanted,
        sums: &mut Gradients,
    ) -> Result<UnetStep, ModelError> {
        let text = leaf(input.encoder_hidden_states, wanted.text);
        let added = pooled_as(input.added.as_ref(), |pooled| {
            leaf(pooled, wanted.embedding == Wish::Pooled)
        });
        let control = input.control.map(|control| leaf(control, wanted.control));
        let loss = loss(self.forward(&UnetInput {
            encoder_hidden_states: text.clone(),
            added: added.clone(),
            control: control.clone(),
            ..input
        })?);
        let mut step = UnetStep::of(plain(&loss));
        if tracked(&loss) {
            let mut gradients = loss.backward();
            self.visit(&mut |param| collect(param, &mut gradients, sums));
            step.d_encoder_hidden_states = text.grad_remove(&mut gradients);
            step.d_text_embeds =
                added.and_then(|added| added.text_embeds.grad_remove(&mut gradients));
            step.d_control = control.and_then(|control| control.grad_remove(&mut gradients));
        }
        Ok(step)
    }

    fn accumulate_by_segments(
        &self,
        input: &UnetInput,
        loss: &dyn Fn(Tensor<4>) -> Tensor<1>,
        wanted: Wanted,
        sums: &mut Gradients,
    ) -> UnetStep {
        let still = self.frozen();
        let conditions = still.conditions(input, still.time(input));
        let (mut kept, output) = still.inputs_of_segments(input, &conditions);
        let Some(lowest) = self.lowest_differentiated(wanted) else {
            return UnetStep::of(plain(&loss(output)));
        };
        drop(output);
        let mut leaves = Leaves::new(conditions, input, wanted);
        let mut value = None;
        let mut upstream: Option<Tensor<4>> = None;
        let mut skip_gradients = Vec::new();
        for (index, segment) in self.segments.iter().enumerate().skip(lowest).rev() {
            let Some(Kept { h, skip, size }) = kept.pop() else {
                break;
            };
            let h = leaf(h, index > lowest);
            let skip = skip.map(|(from, skip)| leaf(skip, from >= lowest));
            let output = segment.forward(h.clone(), skip.clone(), size, &leaves.at(self.compute));
            if segment.pushes {
                upstream = add(upstream, skip_gradients.pop().flatten());
            }
            let mut gradients = match (upstream.take(), &value) {
                (Some(upstream), _) => backward_from(output, upstream),
                (None, Some(_)) => break,
                (None, None) => {
                    let loss = loss(output.cast(FloatDType::F32));
                    value = Some(plain(&loss));
                    if !tracked(&loss) {
                        break;
                    }
                    loss.backward()
                }
            };
            upstream = h.grad_remove(&mut gradients);
            if let Some(skip) = skip {
                skip_gradients.push(skip.grad_remove(&mut gradients));
            }
            leaves.collect(&mut gradients);
            layers::visit(segment, &mut |param| collect(param, &mut gradients, sums));
        }
        let d_emb = leaves.d_emb.take();
        UnetStep {
            loss: value.unwrap_or_else(|| unreachable!("the last segment gives a loss")),
            d_text_embeds: self.finish_embeddings(
                input,
                d_emb,
                wanted.embedding == Wish::Pooled,
                sums,
            ),
            d_encoder_hidden_states: leaves.d_text,
            d_control: leaves.d_control,
        }
    }

    /// The backward pass of the time embedding, once all segments have given its gradient; gives that of the pooled texts.
    fn finish_embeddings(
        &self,
        input: &UnetInput,
        d_emb: Option<Tensor<2>>,
        pooled: bool,
        sums: &mut Gradients,
    ) -> Option<Tensor<2>> {
        let d_emb = d_emb?;
        let added = pooled_as(input.added.as_ref(), |value| leaf(value, pooled));
        let input = UnetInput {
            added: added.clone(),
            ..input.clone()
        };
        let emb = self.conditions(&input, self.time(&input)).emb;
        let mut gradients = backward_from(emb, d_emb);
        layers::visit(&self.embeddings, &mut |param| {
            collect(param, &mut gradients, sums);
        });
        added?.text_embeds.grad_remove(&mut gradients)
    }

    /// Runs all segments without a graph, keeping their inputs; also gives the prediction in f32.
    fn inputs_of_segments(
        &self,
        input: &UnetInput,
        conditions: &Conditions,
    ) -> (Vec<Kept>, Tensor<4>) {
        let mut h = input.sample.clone().cast(self.compute);
        let mut kept = Vec::with_capacity(self.segments.len());
        let mut skips: Vec<(usize, Tensor<4>)> = Vec::new();
        for (index, segment) in self.segments.iter().enumerate() {
            let skip = if segment.pops { skips.pop() } else { None };
            let size = size_of(skips.last().map_or(&h, |(_, skip)| skip));
            let own = skip.as_ref().map(|(_, skip)| skip.clone());
            let output = segment.forward(h.clone(), own, size, conditions);
            kept.push(Kept { h, skip, size });
            if segment.pushes {
                skips.push((index, output.clone()));
            }
            h = output;
        }
        (kept, h.cast(FloatDType::F32))
    }

    /// The first segment that needs a backward pass; `None` when none does.
    fn lowest_differentiated(&self, wanted: Wanted) -> Option<usize> {
        let needed = |(index, segment): (usize, &Segment)| {
            (wanted.control && index == 0)
                || (wanted.embedding != Wish::Nothing && segment.sees_time())
                || (wanted.text && segment.sees_text())
                || is_trained(segment)
        };
        self.segments.iter().enumerate().position(needed)
    }
}

impl UnetStep {
    /// A loss without gradients.
    fn of(loss: Tensor<1>) -> Self {
        Self {
            loss,
            d_encoder_hidden_states: None,
            d_text_embeds: None,
            d_control: None,
        }
    }
}

/// The same conditions with the pooled texts changed.
fn pooled_as(
    added: Option<&AddedConditions>,
    change: impl Fn(Tensor<2>) -> Tensor<2>,
) -> Option<AddedConditions> {
    added.map(|added| AddedConditions {
        text_embeds: change(added.text_embeds.clone()),
        time_ids: added.time_ids.clone(),
    })
}

impl Leaves {
    fn new(conditions: Conditions, input: &UnetInput, wanted: Wanted) -> Self {
        let control = input.control.clone();
        Self {
            emb: leaf(
                conditions.emb.cast(FloatDType::F32),
                wanted.embedding != Wish::Nothing,
            ),
            text: leaf(input.encoder_hidden_states.clone(), wanted.text),
            control: control.map(|control| leaf(control, wanted.control)),
            d_emb: None,
            d_text: None,
            d_control: None,
        }
    }

    /// What a segment looks at, in the compute dtype.
    fn at(&self, compute: burn::tensor::DType) -> Conditions {
        let control = self.control.clone();
        Conditions {
            emb: self.emb.clone().cast(compute),
            text: self.text.clone().cast(compute),
            control: control.map(|control| control.cast(compute)),
        }
    }

    fn collect(&mut self, gradients: &mut burn::tensor::Gradients) {
        self.d_emb = add(self.d_emb.take(), self.emb.grad_remove(gradients));
        self.d_text = add(self.d_text.take(), self.text.grad_remove(gradients));
        let control = self.control.as_ref();
        let d_control = control.and_then(|control| control.grad_remove(gradients));
        self.d_control = add(self.d_control.take(), d_control);
    }
}
