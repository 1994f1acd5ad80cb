//! Image classifiers: against plain loops, on every kernel and number of threads, and from files that are wrong.

mod edited;

use edited::{Edited, Tensor};
use sterna_core::formats::{Format, half::f32_to_f16};
use sterna_core::gguf::{Gguf, Metadata, Value};
use sterna_core::kernels::{Executor, Rayon, Serial, available};
use sterna_core::model::image::{ImageClassifier, ImageConfig, ImageLayer, Shape};
use sterna_core::model::{LoadOptions, ModelError, refusals};

/// A generator of numbers that need not be good.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// From -1 to 1.
    fn unit(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }
}

fn config() -> ImageConfig {
    ImageConfig {
        input: Shape { height: 13, width: 11, channels: 2 },
        mean: vec![0.1, 0.2],
        deviation: vec![0.3, 0.5],
        layers: vec![
            ImageLayer::Conv { channels: 18, kernel: 5, stride: 1, pad: 2 },
            ImageLayer::Relu,
            ImageLayer::MaxPool,
            ImageLayer::Conv { channels: 33, kernel: 3, stride: 2, pad: 1 },
            ImageLayer::Relu,
            ImageLayer::Conv { channels: 16, kernel: 2, stride: 1, pad: 0 },
            ImageLayer::Linear { channels: 20 },
            ImageLayer::Relu,
            ImageLayer::AveragePool,
            ImageLayer::Linear { channels: 5 },
        ],
        labels: ["a", "b", "c", "d", "e"].map(String::from).to_vec(),
        centred: false,
    }
}

/// A classifier whose matrices have that format; of ternary ones with a scale for each block, or for each row.
fn classifier(format: Format, scale_a_row: bool) -> Edited {
    let config = config();
    let mut draw = Draw(7);
    let mut tensors = Vec::new();
    for (i, (layer, input)) in config.layers.iter().zip(config.inputs()).enumerate() {
        let Some((rows, cols)) = layer.matrix(input) else { continue };
        let padded = cols.next_multiple_of(format.block_len());
        let mut bytes = Vec::new();
        for _ in 0..rows {
            let size = (1.0 + draw.unit() / 2.0) / (cols as f32).sqrt();
            if format.is_ternary() {
                let code = |c: usize, draw: &mut Draw| match format {
                    Format::Q1_0 => (draw.next() % 2 * 2) as u8,
                    // What stands beyond the patch's own columns must not matter.
                    _ if c >= cols => (draw.next() % 3) as u8,
                    _ => (draw.next() % 3) as u8,
                };
                let codes: Vec<u8> = (0..padded).map(|c| code(c, &mut draw)).collect();
                let scale = |draw: &mut Draw| size * if scale_a_row { 1.0 } else { 1.0 + draw.unit() / 3.0 };
                let scales: Vec<u16> = (0..padded / format.block_len()).map(|_| f32_to_f16(scale(&mut draw))).collect();
                format.encode_codes(&codes, &scales, &mut bytes).unwrap();
            } else {
                let values: Vec<f32> = (0..padded).map(|_| draw.unit() * size).collect();
                match format {
                    Format::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
                    _ => bytes.extend(values.iter().flat_map(|&value| f32_to_f16(value).to_le_bytes())),
                }
            }
        }
        let (name, dims) = (format!("layer.{i}.weight"), vec![padded as u64, rows as u64]);
        tensors.push(Tensor { name, dims, type_id: format.type_id(), bytes });
        // The last but one has no scale, the last no bias: both are optional.
        let values: Vec<f32> = (0..rows).map(|_| 1.5 + draw.unit()).collect();
        if i != 6 {
            tensors.push(Tensor::f32s(&format!("layer.{i}.scale"), &values));
        }
        if i != 9 {
            tensors.push(Tensor::f32s(&format!("layer.{i}.bias"), &values.iter().map(|v| v - 1.5).collect::<Vec<_>>()));
        }
    }
    Edited { metadata: config.metadata(), tensors }
}

fn load(bytes: &[u8], kernel: &str) -> Result<ImageClassifier, ModelError> {
    let options = LoadOptions { kernel: Some(kernel.to_owned()) };
    ImageClassifier::from_gguf(&Gguf::parse(bytes)?, &options, &Serial)
}

fn pixels(images: usize) -> Vec<u8> {
    let mut draw = Draw(3);
    (0..images * config().input.len()).map(|_| (draw.next() % 256) as u8).collect()
}

/// Scores of one image by plain loops in f64, with the weights as they stand in the file and activations unquantized.
fn reference(file: &Edited, pixels: &[u8]) -> Vec<f64> {
    let config = config();
    let vector = |i: usize, part: &str, rows: usize, default: f64| -> Vec<f64> {
        let name = format!("layer.{i}.{part}");
        match file.tensors.iter().find(|tensor| tensor.name == name) {
            Some(tensor) => {
                tensor.bytes.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
            }
            None => vec![default; rows],
        }
    };
    let mut x: Vec<f64> = (0..pixels.len())
        .map(|i| (f64::from(pixels[i]) / 255.0 - f64::from(config.mean[i % 2])) / f64::from(config.deviation[i % 2]))
        .collect();
    for (i, (layer, input)) in config.layers.iter().zip(config.inputs()).enumerate() {
        let out = layer.output(input).unwrap();
        let mut y = vec![0.0; out.len()];
        let at = |y: usize, x: usize, c: usize| (y * input.width + x) * input.channels + c;
        let weights = layer.matrix(input).map(|(rows, cols)| {
            let tensor = file.tensors.iter().find(|tensor| tensor.name == format!("layer.{i}.weight")).unwrap();
            let format = Format::ALL.into_iter().find(|format| format.type_id() == tensor.type_id).unwrap();
            let padded = tensor.dims[0] as usize;
            let mut values = vec![0.0f32; rows * padded];
            format.dequantize(&tensor.bytes, &mut values).unwrap();
            let values: Vec<Vec<f64>> =
                values.chunks(padded).map(|row| row[..cols].iter().map(|&w| f64::from(w)).collect()).collect();
            (values, vector(i, "scale", rows, 1.0), vector(i, "bias", rows, 0.0))
        });
        match (*layer, &weights) {
            (ImageLayer::Conv { channels, kernel, stride, pad }, Some((w, scale, bias))) => {
                for (j, value) in y.iter_mut().enumerate() {
                    let (row, column, o) = (j / channels / out.width, j / channels % out.width, j % channels);
                    let mut sum = 0.0;
                    for k in 0..kernel * kernel * input.channels {
                        let c = k % input.channels;
                        let (ky, kx) = (k / input.channels / kernel, k / input.channels % kernel);
                        let (Some(iy), Some(ix)) =
                            ((row * stride + ky).checked_sub(pad), (column * stride + kx).checked_sub(pad))
                        else {
                            continue;
                        };
                        if iy < input.height && ix < input.width {
                            sum += w[o][k] * x[at(iy, ix, c)];
                        }
                    }
                    *value = sum * scale[o] + bias[o];
                }
            }
            (ImageLayer::Linear { .. }, Some((w, scale, bias))) => {
                for (o, value) in y.iter_mut().enumerate() {
                    *value = x.iter().zip(&w[o]).map(|(x, w)| x * w).sum::<f64>() * scale[o] + bias[o];
                }
            }
            (ImageLayer::MaxPool, _) => {
                for (j, value) in y.iter_mut().enumerate() {
                    let (row, column, c) =
                        (j / out.channels / out.width, j / out.channels % out.width, j % out.channels);
                    *value = (0..4).map(|k| x[at(2 * row + k / 2, 2 * column + k % 2, c)]).fold(f64::MIN, f64::max);
                }
            }
            (ImageLayer::AveragePool, _) => {
                for (j, value) in x.iter().enumerate() {
                    y[j % out.channels] += value / (input.height * input.width) as f64;
                }
            }
            _ => y = x.iter().map(|value| value.max(0.0)).collect(),
        }
        x = y;
    }
    x
}

const FORMATS: [Format; 8] =
    [Format::F32, Format::F16, Format::TQ1_0, Format::TQ2_0, Format::Q2_0, Format::PQ2_0, Format::PTQ1_0, Format::Q1_0];

#[test]
fn scores_are_those_of_plain_loops() {
    for format in FORMATS {
        for scale_a_row in [false, true] {
            let file = classifier(format, scale_a_row);
            let model = load(&file.write(), available()[0].name()).unwrap();
            let pixels = pixels(3);
            let logits = model.logits(&Serial, &pixels).unwrap();
            let (mut error, mut size) = (0.0, 0.0);
            for (pixels, logits) in pixels.chunks(config().input.len()).zip(logits.chunks(5)) {
                for (expected, &found) in reference(&file, pixels).iter().zip(logits) {
                    error += (expected - f64::from(found)).powi(2);
                    size += expected.powi(2);
                }
            }
            let relative = (error / size).sqrt();
            println!("{:8} scale a row {scale_a_row:5}: relative error {relative:.1e}", format.name());
            // Activations of ternary layers are int8.
            let bound = if format.is_ternary() { 4e-2 } else { 2e-6 };
            assert!(relative < bound, "{} {relative:e}", format.name());
        }
    }
}

#[test]
fn scores_are_the_same_bits_on_all_kernels_threads_and_batches() {
    let pixels = pixels(11);
    let image = config().input.len();
    for format in FORMATS {
        let file = classifier(format, false).write();
        let bits = |kernel: &str, exec: &dyn Executor, images: usize| -> Vec<u32> {
            let model = load(&file, kernel).unwrap();
            let all = pixels.chunks(images * image).flat_map(|pixels| model.logits(exec, pixels).unwrap());
            all.map(f32::to_bits).collect()
        };
        let expected = bits("scalar", &Serial, 1);
        for kernel in available() {
            for (threads, images) in [(1, 11), (2, 11), (7, 11), (2, 1), (7, 3)] {
                // WebAssembly under WASI has one thread.
                let found = match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
                    Ok(pool) => pool.install(|| bits(kernel.name(), &Rayon, images)),
                    Err(_) if cfg!(target_family = "wasm") => bits(kernel.name(), &Serial, images),
                    Err(error) => panic!("{error}"),
                };
                assert!(found == expected, "{} {} {threads} threads, {images} images", format.name(), kernel.name());
            }
        }
        println!(
            "{}: {}",
            format.name(),
            available().iter().map(|kernel| kernel.name()).collect::<Vec<_>>().join(", ")
        );
    }
}

#[test]
fn the_best_score_names_the_label_and_pixels_must_be_whole_images() {
    let model = load(&classifier(Format::TQ2_0, false).write(), "scalar").unwrap();
    let pixels = pixels(6);
    let logits = model.logits(&Serial, &pixels).unwrap();
    for (label, logits) in model.classify(&Serial, &pixels).unwrap().into_iter().zip(logits.chunks(5)) {
        assert!(logits.iter().all(|&logit| logit <= logits[label]));
    }
    assert!(model.logits(&Serial, &[]).unwrap().is_empty());
    let error = model.logits(&Serial, &pixels[1..]).unwrap_err();
    assert!(matches!(error, ModelError::Pixels { expected: 286, .. }), "{error}");
    assert!(load(&classifier(Format::TQ2_0, false).write(), "abacus").is_err());
}

#[test]
fn configurations_survive_their_metadata() {
    let bytes = classifier(Format::F32, false).write();
    let file = Gguf::parse(&bytes).unwrap();
    assert_eq!(ImageConfig::from_header(file.header()).unwrap(), config());
    assert!(refusals(file.header()).is_empty());
}

fn layers(layers: &[&str]) -> Value {
    layers.to_vec().into()
}

#[test]
fn files_that_are_wrong_are_refused_by_name() {
    let refused = |what: &str, edit: &dyn Fn(Edited) -> Edited, expected: &dyn Fn(&ModelError) -> bool| {
        let bytes = edit(classifier(Format::TQ2_0, false)).write();
        let Err(error) = load(&bytes, "scalar") else { panic!("{what} was taken") };
        assert!(expected(&error), "{what}: {error:?}");
        assert!(error.to_string().len() < 400, "{error}");
    };
    let bad_value =
        |key: &'static str| move |error: &ModelError| matches!(error, ModelError::BadValue { key: k, .. } if k == key);
    let gguf = |error: &ModelError| matches!(error, ModelError::Gguf(_));
    let layer = |i: usize| move |error: &ModelError| matches!(error, ModelError::BadLayer { index, .. } if *index == i);
    let much = |error: &ModelError| matches!(error, ModelError::TooMuch { .. });

    for key in [".height", ".width", ".channels", ".mean", ".deviation", ".layers", ".labels"] {
        refused(key, &|file| file.without(key), &gguf);
        refused(key, &|file| file.set(key, "a word"), &gguf);
    }
    refused("another architecture", &|f| f.set("general.architecture", "llama"), &|e| {
        matches!(e, ModelError::NotImages { .. })
    });
    refused("an unknown architecture", &|f| f.set("general.architecture", "mystery"), &|e| {
        matches!(e, ModelError::UnknownArchitecture { .. })
    });
    refused("no rows", &|f| f.set(".height", 0u32), &bad_value("sterna-image.height"));
    refused("huge rows", &|f| f.set(".width", u64::MAX), &bad_value("sterna-image.width"));
    refused("many channels", &|f| f.set(".channels", 5u32), &bad_value("sterna-image.channels"));
    refused("three means", &|f| f.set(".mean", vec![0.0f32; 3]), &bad_value("sterna-image.mean"));
    refused("NaN", &|f| f.set(".mean", vec![0.0, f32::NAN]), &bad_value("sterna-image.mean"));
    refused("division by zero", &|f| f.set(".deviation", vec![1.0f32, 0.0]), &bad_value("sterna-image.deviation"));
    refused("no layers", &|f| f.set(".layers", layers(&[])), &bad_value("sterna-image.layers"));
    refused("many layers", &|f| f.set(".layers", layers(&["relu"; 257])), &bad_value("sterna-image.layers"));
    refused("no labels", &|f| f.set(".labels", layers(&[])), &bad_value("sterna-image.labels"));
    refused("centred as a number", &|f| f.set(".centred", 1u32), &gguf);
    refused("a word", &|f| f.set(".layers", layers(&["relu", "dropout 0.5"])), &layer(1));
    refused("a long word", &|f| f.set(".layers", layers(&[&"x".repeat(1 << 20)])), &layer(0));
    refused("too large a filter", &|f| f.set(".layers", layers(&["conv 4 60x60 stride 1 pad 0"])), &layer(0));
    refused("pooled to nothing", &|f| f.set(".layers", layers(&["max-pool 2"; 4])), &layer(3));
    refused("other labels", &|f| f.set(".layers", layers(&["linear 4"])), &layer(0));
    refused("an image at the end", &|f| f.set(".layers", layers(&["conv 5 3x3 stride 1 pad 1"])), &layer(0));
    let large = |file: Edited| file.set(".width", 1024u32).set(".height", 1024u32);
    refused("many numbers", &|f| large(f).set(".layers", layers(&["conv 65535 1x1 stride 1 pad 0"])), &much);
    refused("wide patches", &|f| large(f).set(".layers", layers(&["conv 1 9x9 stride 1 pad 4"])), &much);
    let many = ["conv 64 3x3 stride 1 pad 1"; 9].into_iter().chain(["average-pool", "linear 5"]).collect::<Vec<_>>();
    let medium = |file: Edited| file.set(".width", 128u32).set(".height", 128u32);
    refused("many multiplications", &|f| medium(f).set(".layers", layers(&many)), &|e| {
        matches!(e, ModelError::TooMuch { what: "multiplications", index: 8, .. })
    });

    let weight = "layer.3.weight";
    refused(
        "no weights",
        &|f| f.without_tensor(weight),
        &|e| matches!(e, ModelError::MissingTensor { name, .. } if name == weight),
    );
    refused(
        "weights of no layer",
        &|f| f.with_tensor(Tensor::f32s("layer.1.bias", &[0.0])),
        &|e| matches!(e, ModelError::UnexpectedTensor { name, .. } if name == "layer.1.bias"),
    );
    let shape = |e: &ModelError| matches!(e, ModelError::Shape { .. });
    refused(
        "more columns",
        &|f| {
            f.tensor("layer.9.weight", |t| {
                t.dims[0] *= 2;
                t.bytes.extend_from_within(..);
            })
        },
        &shape,
    );
    refused("fewer rows", &|f| f.tensor("layer.0.scale", |t| t.dims[0] -= 1), &shape);
    refused("a short bias", &|f| f.tensor("layer.0.bias", |t| t.dims[0] -= 1), &shape);
    refused(
        "a bias in blocks",
        &|f| {
            f.tensor("layer.6.bias", |t| {
                *t = Tensor {
                    name: t.name.clone(),
                    dims: t.dims.clone(),
                    type_id: Format::BF16.type_id() + 1000,
                    bytes: t.bytes.clone(),
                };
            })
        },
        &|e| matches!(e, ModelError::Format(_)),
    );
    refused(
        "a NaN scale",
        &|f| f.tensor(weight, |t| t.bytes[64..66].copy_from_slice(&[0xff, 0x7f])),
        &|e| matches!(e, ModelError::Tensor { name, .. } if name == weight),
    );
    refused(
        "a NaN bias",
        &|f| f.tensor("layer.0.bias", |t| t.bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes())),
        &|e| matches!(e, ModelError::NotFinite { element: 1, .. }),
    );

    // Bytes that end early: the container knows.
    let bytes = classifier(Format::TQ2_0, false).write();
    assert!(load(&bytes[..bytes.len() - 64], "scalar").is_err());
    // A tensor handed over in part.
    let file = Gguf::parse(&bytes).unwrap();
    let mut loader = sterna_core::model::image::ImageLoader::new(file.header(), &LoadOptions::default()).unwrap();
    let info = file.tensor(weight).unwrap();
    let error = loader.tensor(info, &file.data(info)[..100], &Serial).unwrap_err();
    assert!(matches!(error, ModelError::Truncated { .. }), "{error}");
    assert!(matches!(loader.finish(), Err(ModelError::MissingTensor { .. })));
}

#[test]
fn a_classifier_is_no_text_model() {
    let file = classifier(Format::TQ2_0, false).write();
    let Err(error) = sterna_core::Model::from_gguf(&file) else { panic!("it was taken") };
    assert!(error.to_string().contains("image classifier"), "{error}");
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "sterna-image");
    let bytes = Edited { metadata, tensors: Vec::new() }.write();
    assert!(matches!(refusals(Gguf::parse(&bytes).unwrap().header())[..], [ModelError::Gguf(_)]));
}
