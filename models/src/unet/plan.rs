//! The tree of a UNet without its weights: the one place that knows which layers there are and in which order they run.

use temper_adapters::peft::Module;

use super::UnetConfig;
use super::config::MidBlock;
use crate::layers::ResnetPlan;
use crate::names::{Names, count, modules};

/// The sizes of a transformer inside a block.
#[derive(Clone, Debug)]
pub(super) struct TransformerPlan {
    /// Its path in the model.
    pub(super) name: String,
    /// Channels C.
    pub(super) channels: usize,
    /// Heads; divide C.
    pub(super) heads: usize,
    /// Transformer blocks.
    pub(super) depth: usize,
    /// Width of the text embeddings.
    pub(super) context: usize,
    /// Both attentions look at the text.
    pub(super) only_cross: bool,
    /// `proj_in` and `proj_out` are linear layers instead of convolutions.
    pub(super) linear: bool,
    /// Scores from f32 queries and keys.
    pub(super) upcast: bool,
    /// Groups of the norm before it.
    pub(super) groups: usize,
}

/// What a segment computes.
#[derive(Clone, Debug)]
pub(super) enum LayerPlan {
    /// `conv_in`.
    Input,
    /// A residual block and the transformer after it.
    Pair(ResnetPlan, Option<TransformerPlan>),
    /// A convolution that halves both axes: its path and channels.
    Downsample(String, usize),
    /// Nearest-pixel doubling and a convolution.
    Upsample(String, usize),
    /// `conv_norm_out`, `SiLU`, `conv_out`.
    Output,
}

/// One step over the hidden state and the stack of skips.
#[derive(Clone, Debug)]
pub(super) struct SegmentPlan {
    /// What it computes.
    pub(super) layer: LayerPlan,
    /// Its input is the hidden state and the skip on top of the stack.
    pub(super) pops: bool,
    /// Its output becomes a skip.
    pub(super) pushes: bool,
    /// The main module that is complete after it.
    pub(super) ends: Option<String>,
}

impl UnetConfig {
    /// The segments in the order of the forward pass.
    pub(super) fn plan(&self) -> Vec<SegmentPlan> {
        let mut plan = vec![SegmentPlan {
            layer: LayerPlan::Input,
            pops: false,
            pushes: true,
            ends: Some("conv_in".to_owned()),
        }];
        let mut skips = vec![self.block_out_channels[0]];
        self.plan_down(&mut plan, &mut skips);
        self.plan_mid(&mut plan);
        self.plan_up(&mut plan, &mut skips);
        plan.push(SegmentPlan {
            layer: LayerPlan::Output,
            pops: false,
            pushes: false,
            ends: None,
        });
        plan
    }

    fn plan_down(&self, plan: &mut Vec<SegmentPlan>, skips: &mut Vec<usize>) {
        let mut inputs = self.block_out_channels[0];
        let last = self.block_out_channels.len() - 1;
        for (block, &channels) in self.block_out_channels.iter().enumerate() {
            let name = format!("down_blocks.{block}");
            for layer in 0..self.layers_per_block[block] {
                let resnet = self.resnet(&format!("{name}.resnets.{layer}"), inputs, channels);
                let attention = self.down_attention[block].then(|| {
                    let name = format!("{name}.attentions.{layer}");
                    self.transformer(name, block, self.down_depth[block])
                });
                plan.push(SegmentPlan::down(LayerPlan::Pair(resnet, attention)));
                inputs = channels;
                skips.push(channels);
            }
            if block < last {
                let conv = format!("{name}.downsamplers.0.conv");
                plan.push(SegmentPlan::down(LayerPlan::Downsample(conv, channels)));
                skips.push(channels);
            }
            end(plan, name);
        }
    }

    fn plan_mid(&self, plan: &mut Vec<SegmentPlan>) {
        let last = self.block_out_channels.len() - 1;
        let channels = self.block_out_channels[last];
        let resnet = |layer: usize| {
            let name = format!("mid_block.resnets.{layer}");
            self.resnet(&name, channels, channels)
        };
        let mut add = |resnet, attention| {
            plan.push(SegmentPlan::plain(LayerPlan::Pair(resnet, attention)));
        };
        match self.mid_block {
            MidBlock::None => return,
            MidBlock::Residual => add(resnet(0), None),
            MidBlock::CrossAttention => {
                let name = "mid_block.attentions.0".to_owned();
                let attention = TransformerPlan {
                    only_cross: false,
                    ..self.transformer(name, last, self.down_depth[last])
                };
                add(resnet(0), Some(attention));
                add(resnet(1), None);
            }
        }
        end(plan, "mid_block".to_owned());
    }

    fn plan_up(&self, plan: &mut Vec<SegmentPlan>, skips: &mut Vec<usize>) {
        let last = self.block_out_channels.len() - 1;
        let mut inputs = self.block_out_channels[last];
        for up in 0..=last {
            let (block, name) = (last - up, format!("up_blocks.{up}"));
            let channels = self.block_out_channels[block];
            for layer in 0..=self.layers_per_block[block] {
                let skip = skips.pop().unwrap_or_default();
                let path = format!("{name}.resnets.{layer}");
                let resnet = self.resnet(&path, inputs + skip, channels);
                let attention = self.up_attention[up].then(|| {
                    let name = format!("{name}.attentions.{layer}");
                    self.transformer(name, block, self.up_depth[up])
                });
                plan.push(SegmentPlan {
                    pops: true,
                    ..SegmentPlan::plain(LayerPlan::Pair(resnet, attention))
                });
                inputs = channels;
            }
            if up < last {
                let conv = format!("{name}.upsamplers.0.conv");
                plan.push(SegmentPlan::plain(LayerPlan::Upsample(conv, channels)));
            }
            end(plan, name);
        }
    }

    fn resnet(&self, name: &str, inputs: usize, outputs: usize) -> ResnetPlan {
        ResnetPlan {
            name: name.to_owned(),
            inputs,
            outputs,
            time: Some(self.time_embedding_dim),
            groups: self.norm_num_groups,
            eps: self.norm_eps,
        }
    }

    fn transformer(&self, name: String, block: usize, depth: usize) -> TransformerPlan {
        TransformerPlan {
            name,
            channels: self.block_out_channels[block],
            heads: self.heads[block],
            depth,
            context: self.cross_attention_dim,
            only_cross: self.only_cross_attention[block],
            linear: self.use_linear_projection,
            upcast: self.upcast_attention,
            groups: self.norm_num_groups,
        }
    }

    /// Every tensor of the checkpoint: name and shape, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (c, time) = (self.block_out_channels[0], self.time_embedding_dim);
        let mut names = Names::default();
        names.linear("time_embedding.linear_1", [time, c]);
        names.linear("time_embedding.linear_2", [time, time]);
        if let Some(addition) = self.addition {
            let inputs = addition.input_dim;
            names.linear("add_embedding.linear_1", [time, inputs]);
            names.linear("add_embedding.linear_2", [time, time]);
        }
        for segment in self.plan() {
            match &segment.layer {
                LayerPlan::Input => {
                    names.conv("conv_in", [c, self.in_channels], 3);
                }
                LayerPlan::Pair(resnet, attention) => {
                    resnet.tensors(&mut names);
                    if let Some(attention) = attention {
                        attention.tensors(&mut names);
                    }
                }
                LayerPlan::Downsample(name, c) | LayerPlan::Upsample(name, c) => {
                    names.conv(name, [*c, *c], 3);
                }
                LayerPlan::Output => {
                    names.norm("conv_norm_out", c);
                    names.conv("conv_out", [self.out_channels, c], 3);
                }
            }
        }
        names.into_tensors()
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        count(&self.tensors())
    }

    /// Every module with parameters, known from the sizes alone.
    pub fn modules(&self) -> Vec<Module> {
        modules(&self.tensors(), |_| false)
    }
}

impl TransformerPlan {
    fn tensors(&self, names: &mut Names) {
        let c = self.channels;
        let at = |part: &str| format!("{}.{part}", self.name);
        let projection: &[usize] = if self.linear { &[c, c] } else { &[c, c, 1, 1] };
        names.norm(&at("norm"), c);
        names.affine(&at("proj_in"), projection);
        for block in 0..self.depth {
            let at = |part: &str| at(&format!("transformer_blocks.{block}.{part}"));
            for (number, crossed) in [(1, self.only_cross), (2, true)] {
                let context = if crossed { self.context } else { c };
                names.norm(&at(&format!("norm{number}")), c);
                for (part, inputs) in [("to_q", c), ("to_k", context), ("to_v", context)] {
                    let name = at(&format!("attn{number}.{part}.weight"));
                    names.tensor(name, &[c, inputs]);
                }
                names.linear(&at(&format!("attn{number}.to_out.0")), [c, c]);
            }
            names.norm(&at("norm3"), c);
            names.linear(&at("ff.net.0.proj"), [8 * c, c]);
            names.linear(&at("ff.net.2"), [c, 4 * c]);
        }
        names.affine(&at("proj_out"), projection);
    }
}

impl SegmentPlan {
    fn plain(layer: LayerPlan) -> Self {
        Self {
            layer,
            pops: false,
            pushes: false,
            ends: None,
        }
    }

    fn down(layer: LayerPlan) -> Self {
        Self {
            pushes: true,
            ..Self::plain(layer)
        }
    }
}

/// Marks the last segment as the end of main module `name`.
fn end(plan: &mut [SegmentPlan], name: String) {
    if let Some(last) = plan.last_mut() {
        last.ends = Some(name);
    }
}
