//! From a GGUF's header and the bytes of its tensors, one at a time in any order, to an [`ImageClassifier`].

use std::collections::{HashMap, HashSet};

use super::ARCHITECTURE;
use super::classifier::{ImageClassifier, Product, Step};
use super::config::ImageConfig;
use crate::formats::{Format, identify_all};
use crate::gguf::{Gguf, Header, TensorInfo};
use crate::kernels::{self, Executor, Kernel};
use crate::model::tensor::{Loaded, Place, check, read};
use crate::model::{LoadOptions, ModelError, TensorReport};
use crate::ternary::{Matrix, TILE_COLS, TernaryBuilder};

/// Takes a classifier's tensors one by one.
pub struct ImageLoader {
    config: ImageConfig,
    kernel: &'static dyn Kernel,
    places: HashMap<String, (Place, Format)>,
    tensors: HashMap<String, Loaded>,
    reports: Vec<TensorReport>,
}

/// Everything that stands against loading a file, as far as its header tells.
pub(in crate::model) fn refusals(header: &Header) -> Vec<ModelError> {
    match ImageConfig::from_header(header) {
        Ok(config) => places(&config, header).err().unwrap_or_default(),
        Err(error) => vec![error],
    }
}

impl ImageLoader {
    /// Checks a header and chooses the kernel.
    ///
    /// # Errors
    /// Everything that can be known from the header: bad metadata, tensors that are missing, of another shape or type, or
    /// not known; a kernel that this machine has not.
    pub fn new(header: &Header, options: &LoadOptions) -> Result<Self, ModelError> {
        let kernel = kernels::select(options.kernel.as_deref())?;
        let config = ImageConfig::from_header(header)?;
        let places = places(&config, header).map_err(|mut errors| errors.swap_remove(0))?;
        Ok(Self { config, kernel, places, tensors: HashMap::new(), reports: Vec::new() })
    }

    /// Packs one tensor of the header from its bytes; what follows it as padding may be there or not.
    ///
    /// # Errors
    /// If bytes are missing or hold values that cannot be: NaN scales, for one.
    pub fn tensor(&mut self, info: &TensorInfo, bytes: &[u8], exec: &dyn Executor) -> Result<(), ModelError> {
        let Some(&(place, format)) = self.places.get(&info.name) else { return Err(unexpected(&info.name)) };
        if let Some((loaded, report)) = read(info, format, place, bytes, exec)? {
            self.reports.push(report);
            self.tensors.insert(info.name.clone(), loaded);
        }
        Ok(())
    }

    /// The classifier, when all tensors are there.
    ///
    /// # Errors
    /// If a tensor of the header was never handed over.
    pub fn finish(mut self) -> Result<ImageClassifier, ModelError> {
        let mut steps = Vec::with_capacity(self.config.layers.len());
        for (i, (&layer, input)) in self.config.layers.iter().zip(self.config.inputs()).enumerate() {
            let mut vector = |part: &str| match self.tensors.remove(&format!("layer.{i}.{part}")) {
                Some(Loaded::Vector(values)) => Some(values),
                _ => None,
            };
            let (scale, bias) = (vector("scale"), vector("bias"));
            let weight = format!("layer.{i}.weight");
            let product = match (layer.matrix(input), self.tensors.remove(&weight)) {
                (None, _) => None,
                (Some((_, cols)), Some(Loaded::Matrix(matrix))) => {
                    let matrix = without_padding(matrix, cols);
                    if let (Some(report), Matrix::Ternary(m)) =
                        (self.reports.iter_mut().find(|report| report.name == weight), &matrix)
                    {
                        (report.group, report.bytes) = (Some(m.group()), m.bytes());
                    }
                    Some(Product { matrix, scale, bias })
                }
                (Some(_), _) => return Err(missing(&weight)),
            };
            steps.push(Step { layer, input, product });
        }
        Ok(ImageClassifier::new(self.config, steps, self.kernel, self.reports))
    }
}

impl ImageClassifier {
    /// Loads a whole file that is in memory or mapped.
    ///
    /// # Errors
    /// As [`ImageLoader`]'s steps.
    pub fn from_gguf(file: &Gguf<'_>, options: &LoadOptions, exec: &dyn Executor) -> Result<Self, ModelError> {
        let mut loader = ImageLoader::new(file.header(), options)?;
        for info in &file.header().tensors {
            loader.tensor(info, file.data(info), exec)?;
        }
        loader.finish()
    }
}

/// Where every tensor of a file goes.
///
/// # Errors
/// The first of [`refusals`].
pub(in crate::model) fn plan(header: &Header) -> Result<HashMap<String, (Place, Format)>, ModelError> {
    places(&ImageConfig::from_header(header)?, header).map_err(|mut errors| errors.swap_remove(0))
}

/// Finds a place for every tensor and a tensor for every place.
fn places(config: &ImageConfig, header: &Header) -> Result<HashMap<String, (Place, Format)>, Vec<ModelError>> {
    // The name of each tensor that may be there; of matrices the rows and the columns before padding.
    let mut wanted = HashMap::new();
    let mut required = Vec::new();
    for (i, (layer, input)) in config.layers.iter().zip(config.inputs()).enumerate() {
        if let Some((rows, cols)) = layer.matrix(input) {
            wanted.insert(format!("layer.{i}.weight"), (rows, Some(cols)));
            required.push(format!("layer.{i}.weight"));
            wanted.insert(format!("layer.{i}.scale"), (rows, None));
            wanted.insert(format!("layer.{i}.bias"), (rows, None));
        }
    }
    let (mut places, mut errors) = (HashMap::new(), Vec::new());
    for (info, identified) in header.tensors.iter().zip(identify_all(header)) {
        let Some(&(rows, cols)) = wanted.get(&info.name) else {
            errors.push(unexpected(&info.name));
            // Of very many, the first will do.
            if errors.len() > 1000 {
                break;
            }
            continue;
        };
        let placed = identified.map_err(ModelError::from).and_then(|identified| {
            let format = identified.format;
            let place = match cols {
                Some(cols) => Place::Matrix { rows: Some(rows), cols: cols.next_multiple_of(format.block_len()) },
                None => Place::Vector { len: rows },
            };
            check(info, format, place).map(|()| (place, format))
        });
        match placed {
            Ok(place) => {
                places.insert(info.name.clone(), place);
            }
            Err(error) => errors.push(error),
        }
    }
    let present: HashSet<_> = header.tensors.iter().map(|info| info.name.as_str()).collect();
    errors.extend(required.iter().filter(|name| !present.contains(name.as_str())).map(|name| missing(name)));
    if errors.is_empty() { Ok(places) } else { Err(errors) }
}

/// The matrix with its rows of `cols` columns padded to the kernels' sixteen only, where each has a single scale: a block of the
/// file may be ten times a patch. The padding meets zeros, so products are the same bits.
fn without_padding(matrix: Matrix, cols: usize) -> Matrix {
    let narrow = cols.next_multiple_of(TILE_COLS);
    match &matrix {
        Matrix::Ternary(m) if m.group() == m.cols() && narrow < m.cols() => {
            let mut builder = TernaryBuilder::new(m.rows(), narrow, narrow, m.tensor_scale());
            for mut tile in builder.tiles_mut() {
                for lane in 0..tile.rows {
                    let row = tile.first_row + lane;
                    let codes: Vec<u8> = m.row_weights(row)[..narrow].iter().map(|weight| (weight + 1) as u8).collect();
                    tile.set_row(lane, &codes, &[m.scales()[row]]);
                }
            }
            Matrix::Ternary(builder.finish())
        }
        _ => matrix,
    }
}

fn unexpected(name: &str) -> ModelError {
    ModelError::UnexpectedTensor { name: name.to_owned(), architecture: ARCHITECTURE }
}

fn missing(name: &str) -> ModelError {
    ModelError::MissingTensor { name: name.to_owned(), architecture: ARCHITECTURE }
}
