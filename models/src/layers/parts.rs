//! One walk over a tree of layers, from which every visit follows: parameters, linear layers, convolutions.

use temper_adapters::{AdaptedConv2d, AdaptedLinear, Param};

/// A leaf of the tree.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    /// A parameter that no adapter changes (a norm, an embedding).
    Param(&'a Param),
    /// A linear layer.
    Linear(&'a AdaptedLinear),
    /// A convolution.
    Conv(&'a AdaptedConv2d),
}

/// The same, to change it.
#[derive(Debug)]
pub(crate) enum PartMut<'a> {
    /// A parameter that no adapter changes (a norm, an embedding).
    Param(&'a mut Param),
    /// A linear layer.
    Linear(&'a mut AdaptedLinear),
    /// A convolution.
    Conv(&'a mut AdaptedConv2d),
}

/// A tree of layers.
pub(crate) trait Parts {
    /// Calls `visit` on every leaf, always in the same order.
    fn parts(&self, visit: &mut dyn FnMut(Part<'_>));
    /// The same, to change them.
    fn parts_mut(&mut self, visit: &mut dyn FnMut(PartMut<'_>));
}

/// [`Parts`] of a type whose leaves lie below these fields, visited in this order.
macro_rules! walked_by_parts {
    ($tree:ty { $($field:ident),+ }) => {
        impl $crate::layers::Parts for $tree {
            fn parts(&self, visit: &mut dyn FnMut($crate::layers::Part<'_>)) {
                $($crate::layers::Parts::parts(&self.$field, visit);)+
            }

            fn parts_mut(&mut self, visit: &mut dyn FnMut($crate::layers::PartMut<'_>)) {
                $($crate::layers::Parts::parts_mut(&mut self.$field, visit);)+
            }
        }
    };
}
pub(crate) use walked_by_parts;

/// What training and adapters need of a model that is a tree of [`Parts`], whose `config` knows its modules.
macro_rules! adapted_by_parts {
    ($model:ty) => {
        impl temper_adapters::Parameters for $model {
            fn visit(&self, visit: &mut dyn FnMut(&temper_adapters::Param)) {
                $crate::layers::visit(self, visit);
            }

            fn visit_mut(&mut self, visit: &mut dyn FnMut(&mut temper_adapters::Param)) {
                $crate::layers::visit_mut(self, visit);
            }
        }

        impl temper_adapters::Adaptable for $model {
            fn modules(&self) -> Vec<temper_adapters::peft::Module> {
                self.config.modules()
            }

            fn visit_linears_mut(
                &mut self,
                visit: &mut dyn FnMut(&mut temper_adapters::AdaptedLinear),
            ) {
                $crate::layers::visit_linears_mut(self, visit);
            }

            fn visit_convs_mut(
                &mut self,
                visit: &mut dyn FnMut(&mut temper_adapters::AdaptedConv2d),
            ) {
                $crate::layers::visit_convs_mut(self, visit);
            }
        }
    };
}
pub(crate) use adapted_by_parts;

impl Parts for Param {
    fn parts(&self, visit: &mut dyn FnMut(Part<'_>)) {
        visit(Part::Param(self));
    }

    fn parts_mut(&mut self, visit: &mut dyn FnMut(PartMut<'_>)) {
        visit(PartMut::Param(self));
    }
}

impl Parts for AdaptedLinear {
    fn parts(&self, visit: &mut dyn FnMut(Part<'_>)) {
        visit(Part::Linear(self));
    }

    fn parts_mut(&mut self, visit: &mut dyn FnMut(PartMut<'_>)) {
        visit(PartMut::Linear(self));
    }
}

impl Parts for AdaptedConv2d {
    fn parts(&self, visit: &mut dyn FnMut(Part<'_>)) {
        visit(Part::Conv(self));
    }

    fn parts_mut(&mut self, visit: &mut dyn FnMut(PartMut<'_>)) {
        visit(PartMut::Conv(self));
    }
}

impl<T: Parts> Parts for Option<T> {
    fn parts(&self, visit: &mut dyn FnMut(Part<'_>)) {
        if let Some(part) = self {
            part.parts(visit);
        }
    }

    fn parts_mut(&mut self, visit: &mut dyn FnMut(PartMut<'_>)) {
        if let Some(part) = self {
            part.parts_mut(visit);
        }
    }
}

impl<T: Parts> Parts for Vec<T> {
    fn parts(&self, visit: &mut dyn FnMut(Part<'_>)) {
        for part in self {
            part.parts(visit);
        }
    }

    fn parts_mut(&mut self, visit: &mut dyn FnMut(PartMut<'_>)) {
        for part in self {
            part.parts_mut(visit);
        }
    }
}

/// Calls `visit` on every parameter below `tree`, those of adapters among them.
pub(crate) fn visit(tree: &dyn Parts, visit: &mut dyn FnMut(&Param)) {
    tree.parts(&mut |part| match part {
        Part::Param(param) => visit(param),
        Part::Linear(linear) => linear.visit(visit),
        Part::Conv(conv) => conv.visit(visit),
    });
}

/// The same, to change them.
pub(crate) fn visit_mut(tree: &mut dyn Parts, visit: &mut dyn FnMut(&mut Param)) {
    tree.parts_mut(&mut |part| match part {
        PartMut::Param(param) => visit(param),
        PartMut::Linear(linear) => linear.visit_mut(visit),
        PartMut::Conv(conv) => conv.visit_mut(visit),
    });
}

/// Whether a parameter below `tree` is trained.
pub(crate) fn is_trained(tree: &dyn Parts) -> bool {
    let mut trained = false;
    visit(tree, &mut |param| trained |= param.is_trainable());
    trained
}

/// Calls `visit` on every linear layer below `tree`.
pub(crate) fn visit_linears_mut(tree: &mut dyn Parts, visit: &mut dyn FnMut(&mut AdaptedLinear)) {
    tree.parts_mut(&mut |part| {
        if let PartMut::Linear(linear) = part {
            visit(linear);
        }
    });
}

/// Calls `visit` on every convolution below `tree`.
pub(crate) fn visit_convs_mut(tree: &mut dyn Parts, visit: &mut dyn FnMut(&mut AdaptedConv2d)) {
    tree.parts_mut(&mut |part| {
        if let PartMut::Conv(conv) = part {
            visit(conv);
        }
    });
}
