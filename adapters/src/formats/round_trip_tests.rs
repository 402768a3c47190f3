use super::fixtures::{linears, lora, oft, text_encoder, unet};
use super::*;
use crate::peft::{AdapterConfig, AdapterFile, Module, OftConfig};
use crate::weights::Checkpoint;

/// The same tensors, and the same scale of each module.
fn assert_same(ours: &AdapterFile, theirs: &AdapterFile) {
    assert_eq!(ours.tensors(), theirs.tensors());
    let (AdapterConfig::Lora(ours), AdapterConfig::Lora(theirs_config)) =
        (ours.config(), theirs.config())
    else {
        return;
    };
    for module in theirs.adapted_modules() {
        let (a, b) = (
            ours.scale(module).unwrap(),
            theirs_config.scale(module).unwrap(),
        );
        assert!((a - b).abs() <= f64::EPSILON * b.abs(), "{module}: {a} {b}");
    }
}

#[test]
fn diffusers_files_come_back_as_they_were() {
    let (unet, text) = (unet(), text_encoder(""));
    let modules = Modules {
        unet: &unet,
        text_encoder: &text,
        ..Modules::default()
    };
    for (use_rslora, use_dora) in [(false, false), (true, false), (true, true)] {
        let (of_unet, of_text) = (lora(&unet, use_rslora, use_dora), lora(&text, false, false));
        let directory = tempfile::tempdir().unwrap();
        let both = [
            (Component::Unet, &of_unet),
            (Component::TextEncoder, &of_text),
        ];
        write_diffusers_lora(directory.path(), &both).unwrap();
        let read = read(directory.path(), &modules).unwrap();
        assert!(read.remarks.is_empty(), "{:?}", read.remarks);
        let found: Vec<Component> = read
            .adapters
            .iter()
            .map(|(component, _)| *component)
            .collect();
        assert_eq!(found, [Component::Unet, Component::TextEncoder]);
        assert_same(&read.adapters[0].1, &of_unet);
        assert_same(&read.adapters[1].1, &of_text);
        let file = directory.path().join("again.safetensors");
        let again: Vec<_> = read
            .adapters
            .iter()
            .map(|(component, adapter)| (*component, adapter))
            .collect();
        write_diffusers_lora(&file, &again).unwrap();
        let first =
            std::fs::read(directory.path().join("pytorch_lora_weights.safetensors")).unwrap();
        assert_eq!(std::fs::read(file).unwrap(), first, "byte for byte");
    }
}

#[test]
fn kohya_files_come_back_with_the_same_scales() {
    let (unet, text, text_2) = (unet(), text_encoder(""), text_encoder("text_model."));
    let modules = Modules {
        unet: &unet,
        text_encoder: &text,
        text_encoder_2: &text_2,
    };
    for (use_rslora, model) in [(false, KohyaModel::Sd1), (true, KohyaModel::Sdxl)] {
        let adapters = [
            (Component::Unet, lora(&unet, use_rslora, false)),
            (Component::TextEncoder, lora(&text, use_rslora, false)),
            (Component::TextEncoder2, lora(&text_2, false, false)),
        ];
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("subject.safetensors");
        let borrowed: Vec<_> = adapters
            .iter()
            .map(|(component, adapter)| (*component, adapter))
            .collect();
        assert!(
            write_kohya(&file, &borrowed, model, &modules)
                .unwrap()
                .is_empty()
        );
        assert_eq!(detect(&file).unwrap(), Format::Kohya(file.clone()));
        let read = read(&file, &modules).unwrap();
        for ((component, ours), (wanted, theirs)) in read.adapters.iter().zip(&adapters) {
            assert_eq!(component, wanted);
            assert_same(ours, theirs);
        }
        assert_eq!(read.adapters.len(), 3);
    }
}

#[test]
fn kohya_names_are_those_that_other_tools_use() {
    let (unet, text) = (unet(), text_encoder(""));
    let modules = Modules {
        unet: &unet,
        text_encoder: &text,
        ..Modules::default()
    };
    let keys = |model| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("subject.safetensors");
        let (of_unet, of_text) = (lora(&unet, false, false), lora(&text, false, false));
        let both = [
            (Component::Unet, &of_unet),
            (Component::TextEncoder, &of_text),
        ];
        write_kohya(&file, &both, model, &modules).unwrap();
        let file = Checkpoint::open(file).unwrap();
        (
            file.names().map(str::to_owned).collect::<Vec<_>>(),
            file.metadata(),
        )
    };
    let (sd1, header) = keys(KohyaModel::Sd1);
    for key in [
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0.lora_down.weight",
        "lora_unet_mid_block_resnets_1_conv1.alpha",
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight",
    ] {
        assert!(sd1.iter().any(|known| known == key), "{key}");
    }
    assert_eq!(header["ss_base_model_version"], "sd_v1");
    assert_eq!(
        (&*header["ss_network_dim"], &*header["ss_network_alpha"]),
        ("4", "6")
    );
    assert_eq!(header["ss_network_module"], "networks.lora");
    let (sdxl, header) = keys(KohyaModel::Sdxl);
    for key in [
        "lora_unet_input_blocks_0_0.alpha",
        "lora_unet_input_blocks_1_0_in_layers_2.alpha",
        "lora_unet_input_blocks_3_0_op.alpha",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.alpha",
        "lora_unet_input_blocks_5_0_skip_connection.alpha",
        "lora_unet_middle_block_1_proj_in.alpha",
        "lora_unet_middle_block_2_emb_layers_1.alpha",
        "lora_unet_output_blocks_1_1_transformer_blocks_0_ff_net_0_proj.alpha",
        "lora_unet_output_blocks_2_2_conv.alpha",
        "lora_unet_output_blocks_5_1_conv.alpha",
        "lora_unet_out_2.alpha",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha",
    ] {
        assert!(sdxl.iter().any(|known| known == key), "{key}");
    }
    assert_eq!(header["ss_base_model_version"], "sdxl_base_v1-0");
}

#[test]
fn rotations_come_back_with_their_blocks() {
    let mut unet = linears(unet());
    // Three blocks are asked for, and this layer alone can have them: neither all sizes nor all counts are alike.
    let odd = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k";
    unet.push(Module::linear(odd, 12, 8));
    let modules = Modules {
        unet: &unet,
        ..Modules::default()
    };
    let changes: [fn(&mut OftConfig); 5] = [
        |_| {},
        |config| config.block_share = true,
        |config| (config.oft_block_size, config.r) = (0, 2),
        |config| (config.oft_block_size, config.r) = (0, 3),
        |config| (config.oft_block_size, config.r, config.block_share) = (0, 3, true),
    ];
    for change in changes {
        let adapter = oft(&unet, change);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("oft.safetensors");
        let remarks = write_kohya(
            &file,
            &[(Component::Unet, &adapter)],
            KohyaModel::Sd1,
            &modules,
        )
        .unwrap();
        assert!(remarks.is_empty());
        let read = read(&file, &modules).unwrap();
        assert!(read.remarks.is_empty(), "the file says how they are meant");
        assert_eq!(read.adapters[0].1.tensors(), adapter.tensors());
        let (AdapterConfig::Oft(ours), AdapterConfig::Oft(theirs)) =
            (read.adapters[0].1.config(), adapter.config())
        else {
            panic!("OFT stays OFT");
        };
        assert_eq!(ours.block_share, theirs.block_share);
        assert!(ours.use_cayley_neumann);
    }
}

#[test]
fn exact_rotations_are_negated_for_readers_of_the_series() {
    let unet = linears(unet());
    let modules = Modules {
        unet: &unet,
        ..Modules::default()
    };
    let exact = oft(&unet, |config| config.use_cayley_neumann = false);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("oft.safetensors");
    let remarks = write_kohya(
        &file,
        &[(Component::Unet, &exact)],
        KohyaModel::Sd1,
        &modules,
    )
    .unwrap();
    assert!(remarks[0].contains("negated"), "{remarks:?}");
    let read = read(&file, &modules).unwrap();
    for (ours, theirs) in read.adapters[0].1.tensors().iter().zip(exact.tensors()) {
        let negated: Vec<f32> = theirs
            .tensor
            .to_f32()
            .unwrap()
            .iter()
            .map(|value| -value)
            .collect();
        assert_eq!(ours.tensor.to_f32().unwrap(), negated);
    }
}
