//! What an image classifier's metadata says, checked: the image's size, how pixels become numbers, the layers, the labels.

use std::fmt;
use std::str::FromStr;

use super::ARCHITECTURE;
use crate::gguf::{Header, Metadata, Value};
use crate::model::ModelError;

/// The key of the list of layers.
const LAYERS: &str = "sterna-image.layers";
/// The widest and highest image.
const MAX_SIDE: u64 = 1024;
/// Colours and opacity.
const MAX_CHANNELS: u64 = 4;
/// Layers of a classifier; the deepest that anyone trained had a thousand, but not in a ternary GGUF.
const MAX_LAYERS: usize = 256;
/// Classes and channels.
const MAX_WIDTH: u64 = 1 << 16;
/// Numbers between two layers, and in the patches of one, of one image.
const MAX_NUMBERS: u64 = 1 << 24;
/// Multiplications of all layers for one image.
const MAX_MULTIPLICATIONS: u64 = 1 << 32;

/// The size of what goes from one layer to the next, `[height, width, channels]`, channels side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Numbers at each place.
    pub channels: usize,
}

impl Shape {
    /// Numbers in all.
    pub fn len(self) -> usize {
        self.height * self.width * self.channels
    }

    /// Whether there is nothing in it, which no checked shape is.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// One step of a classifier, as it is written in the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageLayer {
    /// `conv OUT KxK stride S pad P`: a square convolution with zeros around the image, then scale and bias where there are
    /// such tensors.
    Conv {
        /// Channels that come out.
        channels: usize,
        /// Rows and columns of the filter.
        kernel: usize,
        /// Places from one patch to the next.
        stride: usize,
        /// Zeros on each side.
        pad: usize,
    },
    /// `linear OUT`: all numbers of the image times a matrix, then scale and bias where there are such tensors.
    Linear {
        /// Numbers that come out.
        channels: usize,
    },
    /// `relu`: negative numbers become zero.
    Relu,
    /// `max-pool 2`: the largest of 2 x 2 places; an odd last row or column is left out.
    MaxPool,
    /// `average-pool`: the mean of all places, one for each channel.
    AveragePool,
}

impl ImageLayer {
    /// What comes out of this layer where `input` goes in; `None` if that is nothing, or too large to say.
    pub fn output(self, input: Shape) -> Option<Shape> {
        let shape = match self {
            Self::Conv { channels, kernel, stride, pad } => {
                let side =
                    |n: usize| Some((n.checked_add(pad.checked_mul(2)?)?.checked_sub(kernel)?) / stride.max(1) + 1);
                Shape { height: side(input.height)?, width: side(input.width)?, channels }
            }
            Self::Linear { channels } => Shape { height: 1, width: 1, channels },
            Self::Relu => input,
            Self::MaxPool => Shape { height: input.height / 2, width: input.width / 2, channels: input.channels },
            Self::AveragePool => Shape { height: 1, width: 1, channels: input.channels },
        };
        let positive = shape.height > 0 && shape.width > 0 && shape.channels > 0;
        positive.then_some(shape)
    }

    /// Rows and columns of the layer's matrix before columns are padded to whole blocks, where it has one.
    pub fn matrix(self, input: Shape) -> Option<(usize, usize)> {
        match self {
            Self::Conv { channels, kernel, .. } => Some((channels, kernel * kernel * input.channels)),
            Self::Linear { channels } => Some((channels, input.len())),
            Self::Relu | Self::MaxPool | Self::AveragePool => None,
        }
    }
}

impl fmt::Display for ImageLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conv { channels, kernel, stride, pad } => {
                write!(f, "conv {channels} {kernel}x{kernel} stride {stride} pad {pad}")
            }
            Self::Linear { channels } => write!(f, "linear {channels}"),
            Self::Relu => f.write_str("relu"),
            Self::MaxPool => f.write_str("max-pool 2"),
            Self::AveragePool => f.write_str("average-pool"),
        }
    }
}

impl FromStr for ImageLayer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let words: Vec<&str> = text.split(' ').collect();
        let number =
            |word: &str| word.parse::<u16>().map(usize::from).map_err(|_| "its numbers must be from 0 to 65535");
        match words[..] {
            ["conv", channels, size, "stride", stride, "pad", pad] => {
                let (rows, columns) = size.split_once('x').ok_or("a filter's size is written like 3x3")?;
                if rows != columns {
                    return Err("filters must be square");
                }
                let layer = (number(channels)?, number(rows)?, number(stride)?, number(pad)?);
                let (channels, kernel, stride, pad) = layer;
                if channels == 0 || kernel == 0 || stride == 0 {
                    return Err("channels, size and stride must be above zero");
                }
                if pad >= kernel {
                    return Err("the zeros on a side must be fewer than the filter has rows");
                }
                Ok(Self::Conv { channels, kernel, stride, pad })
            }
            ["linear", channels] => match number(channels)? {
                0 => Err("a linear layer must give at least one number"),
                channels => Ok(Self::Linear { channels }),
            },
            ["relu"] => Ok(Self::Relu),
            ["max-pool", "2"] => Ok(Self::MaxPool),
            ["average-pool"] => Ok(Self::AveragePool),
            _ => Err(
                "it must be one of `conv OUT KxK stride S pad P`, `linear OUT`, `relu`, `max-pool 2` and `average-pool`",
            ),
        }
    }
}

/// Sizes and constants of an image classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageConfig {
    /// Of an image.
    pub input: Shape,
    /// Taken off each channel's pixels, which are from 0 to 1, `[channels]`.
    pub mean: Vec<f32>,
    /// What they are divided by then, `[channels]`.
    pub deviation: Vec<f32>,
    /// The steps, first to last; the last gives a number for each label.
    pub layers: Vec<ImageLayer>,
    /// The classes' names.
    pub labels: Vec<String>,
    /// Whether drawings must be brought into place first, as [`crate::image::centre`] does.
    pub centred: bool,
}

impl ImageConfig {
    /// Reads and checks the keys.
    ///
    /// # Errors
    /// A key that is missing, of a wrong type, or senseless; a layer that does not fit the one before it, or asks for more
    /// than any sensible one does.
    pub fn from_header(header: &Header) -> Result<Self, ModelError> {
        let metadata = &header.metadata;
        let name = metadata.require_str("general.architecture")?;
        if name != ARCHITECTURE {
            return Err(ModelError::UnknownArchitecture { name: name.to_owned(), supported: ARCHITECTURE.to_owned() });
        }
        let size = |key: &str, limit: u64| -> Result<usize, ModelError> {
            let key = format!("{ARCHITECTURE}.{key}");
            match metadata.require_u64(&key)? {
                value if (1..=limit).contains(&value) => Ok(value as usize),
                value => Err(bad(&key, value, format!("must be from 1 to {limit}"))),
            }
        };
        let input = Shape {
            height: size("height", MAX_SIDE)?,
            width: size("width", MAX_SIDE)?,
            channels: size("channels", MAX_CHANNELS)?,
        };
        let constants = |key: &str, holds: fn(f32) -> bool, expected: &str| -> Result<Vec<f32>, ModelError> {
            let key = format!("{ARCHITECTURE}.{key}");
            let values = metadata.require_f32s(&key)?;
            if values.len() != input.channels {
                let expected = format!("there must be one for each of the {} channels", input.channels);
                return Err(bad(&key, format!("{} numbers", values.len()), expected));
            }
            match values.iter().find(|&&value| !value.is_finite() || !holds(value)) {
                Some(value) => Err(bad(&key, value, expected.to_owned())),
                None => Ok(values.to_vec()),
            }
        };
        let labels = metadata.require_strings(&format!("{ARCHITECTURE}.labels"))?;
        let centred = format!("{ARCHITECTURE}.centred");
        Ok(Self {
            input,
            mean: constants("mean", |value| value.abs() <= 1e3, "it must be a small number")?,
            deviation: constants("deviation", |value| (1e-3..=1e3).contains(&value), "it must be from 0.001 to 1000")?,
            layers: layers(metadata.require_strings(LAYERS)?, input, labels.len())?,
            labels: labels.to_vec(),
            centred: metadata.contains(&centred) && metadata.require_bool(&centred)?,
        })
    }

    /// The keys for a file, `general.architecture` first.
    pub fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", ARCHITECTURE);
        let mut put = |key: &str, value: Value| metadata.insert(format!("{ARCHITECTURE}.{key}"), value);
        put("height", (self.input.height as u32).into());
        put("width", (self.input.width as u32).into());
        put("channels", (self.input.channels as u32).into());
        put("mean", self.mean.clone().into());
        put("deviation", self.deviation.clone().into());
        put("layers", self.layers.iter().map(ToString::to_string).collect::<Vec<_>>().into());
        put("labels", self.labels.clone().into());
        put("centred", self.centred.into());
        metadata
    }

    /// The columns of the matrix that is a tensor of this name, before they are padded to whole blocks; `None` for other
    /// tensors.
    pub fn columns(&self, tensor: &str) -> Option<usize> {
        let layer: usize = tensor.strip_prefix("layer.")?.strip_suffix(".weight")?.parse().ok()?;
        self.layers.get(layer)?.matrix(*self.inputs().get(layer)?).map(|(_, cols)| cols)
    }

    /// What goes into each layer, in their order.
    pub fn inputs(&self) -> Vec<Shape> {
        let mut shape = self.input;
        let mut inputs = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            inputs.push(shape);
            shape = layer.output(shape).unwrap_or(shape);
        }
        inputs
    }
}

/// Reads the list and checks each layer against what is before it.
fn layers(texts: &[String], input: Shape, labels: usize) -> Result<Vec<ImageLayer>, ModelError> {
    if texts.is_empty() || texts.len() > MAX_LAYERS {
        return Err(bad(LAYERS, format!("{} layers", texts.len()), format!("there must be from 1 to {MAX_LAYERS}")));
    }
    let (mut shape, mut multiplications) = (input, 0u64);
    let mut layers = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let wrong = |expected: String| ModelError::BadLayer { key: LAYERS, index, layer: shorten(text), expected };
        let layer: ImageLayer = text.parse().map_err(|expected: &str| wrong(expected.to_owned()))?;
        let Some(output) = layer.output(shape) else {
            return Err(wrong(format!("{} x {} places go in, and nothing comes out", shape.height, shape.width)));
        };
        let limited = |what, found: u64, limit| match found {
            found if found > limit => {
                Err(ModelError::TooMuch { key: LAYERS, index, layer: shorten(text), what, found, limit })
            }
            _ => Ok(()),
        };
        let product = |factors: &[usize]| factors.iter().fold(1u64, |p, &factor| p.saturating_mul(factor as u64));
        let places = product(&[output.height, output.width]);
        limited("numbers", places.saturating_mul(output.channels as u64), MAX_NUMBERS)?;
        let columns = match layer {
            ImageLayer::Conv { kernel, .. } => product(&[kernel, kernel, shape.channels]),
            ImageLayer::Linear { .. } => product(&[shape.height, shape.width, shape.channels]),
            _ => 0,
        };
        // Columns are padded to blocks of at most 256.
        limited("numbers in patches", places.saturating_mul(columns.saturating_add(256)), MAX_NUMBERS)?;
        let here = places.saturating_mul(columns).saturating_mul(output.channels as u64);
        multiplications = here.saturating_add(multiplications);
        limited("multiplications", multiplications, MAX_MULTIPLICATIONS)?;
        layers.push(layer);
        shape = output;
    }
    let text = &texts[texts.len() - 1];
    let wrong =
        |expected: String| ModelError::BadLayer { key: LAYERS, index: texts.len() - 1, layer: shorten(text), expected };
    if labels == 0 || labels as u64 > MAX_WIDTH {
        return Err(bad(&format!("{ARCHITECTURE}.labels"), labels, format!("there must be from 1 to {MAX_WIDTH}")));
    }
    match layers.last() {
        _ if shape != (Shape { height: 1, width: 1, channels: labels }) => {
            Err(wrong(format!("the last layer must give one number for each of the {labels} labels")))
        }
        _ => Ok(layers),
    }
}

fn bad(key: &str, value: impl ToString, expected: String) -> ModelError {
    ModelError::BadValue { key: key.to_owned(), value: value.to_string(), expected }
}

/// As much of a hostile text as a message should carry.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_as_they_are_written() {
        for layer in [
            ImageLayer::Conv { channels: 16, kernel: 5, stride: 1, pad: 2 },
            ImageLayer::Linear { channels: 10 },
            ImageLayer::Relu,
            ImageLayer::MaxPool,
            ImageLayer::AveragePool,
        ] {
            assert_eq!(layer.to_string().parse(), Ok(layer));
        }
        for wrong in [
            "",
            "conv",
            "conv 16 5x5 stride 1",
            "conv 16 5x3 stride 1 pad 1",
            "conv 0 5x5 stride 1 pad 2",
            "conv 16 5x5 stride 0 pad 2",
            "conv 16 5x5 stride 1 pad 5",
            "conv 16 0x0 stride 1 pad 0",
            "linear 0",
            "linear -1",
            "linear 99999",
            "max-pool 3",
            "Relu",
            "relu ",
            "average-pool 7",
        ] {
            assert!(wrong.parse::<ImageLayer>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn shapes_follow_from_the_layers() {
        let input = Shape { height: 28, width: 27, channels: 3 };
        let conv = |kernel, stride, pad| ImageLayer::Conv { channels: 8, kernel, stride, pad }.output(input);
        assert_eq!(conv(5, 1, 2), Some(Shape { height: 28, width: 27, channels: 8 }));
        assert_eq!(conv(3, 2, 1), Some(Shape { height: 14, width: 14, channels: 8 }));
        assert_eq!(conv(28, 1, 0), None);
        assert_eq!(ImageLayer::MaxPool.output(input), Some(Shape { height: 14, width: 13, channels: 3 }));
        assert_eq!(ImageLayer::MaxPool.output(Shape { height: 1, width: 1, channels: 3 }), None);
        assert_eq!(ImageLayer::Linear { channels: 10 }.matrix(input), Some((10, 28 * 27 * 3)));
    }
}
