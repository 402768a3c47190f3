//! Layers that several architectures are made of, under the names of diffusers.

mod norm;
mod parts;
mod resnet;

pub(crate) use norm::Norm;
pub(crate) use parts::{
    Part, PartMut, Parts, adapted_by_parts, is_trained, visit, visit_convs_mut, visit_linears_mut,
    visit_mut, walked_by_parts,
};
pub(crate) use resnet::{Resnet, ResnetPlan};
