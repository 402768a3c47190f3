//! Layers that several architectures are made of, under the names of diffusers.

mod norm;
mod parts;
mod resnet;

pub(crate) use norm::Norm;
pub(crate) use parts::{
    Part, PartMut, Parts, visit, visit_convs_mut, visit_linears_mut, visit_mut,
};
pub(crate) use resnet::{Resnet, ResnetPlan};
