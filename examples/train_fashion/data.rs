//! Fashion-MNIST in IDX files, gzipped or not.

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where Debian's package dataset-fashion-mnist puts the whole set.
const WHOLE: &str = "/usr/share/datasets/fashion-mnist";
/// The 10,000 images that come with this example.
const PART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/fashion-mnist");

/// Pixels of an image.
pub(crate) const PIXELS: usize = 784;
/// Kinds of clothing.
pub(crate) const CLASSES: usize = 10;

/// Images as rows of 784 numbers from 0 to 1, and what they show.
pub(crate) struct Images {
    pub(crate) pixels: Vec<f32>,
    pub(crate) labels: Vec<u32>,
}

/// What is trained on, what is tested on, and where it came from.
pub(crate) struct Data {
    pub(crate) train: Images,
    pub(crate) test: Images,
    pub(crate) source: String,
}

impl Images {
    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    fn split_off(&mut self, at: usize) -> Images {
        Images { pixels: self.pixels.split_off(at * PIXELS), labels: self.labels.split_off(at) }
    }
}

/// The whole set, 60,000 and 10,000, where it is installed or in a folder given; else the 10,000 images of the
/// repository or the folder, 8,000 and 2,000.
pub(crate) fn load(folder: Option<&Path>) -> Result<Data> {
    let whole = folder.map_or_else(|| PathBuf::from(WHOLE), Path::to_path_buf);
    if find(&whole, "train-images-idx3-ubyte").is_some() {
        return Ok(Data {
            train: images(&whole, "train")?,
            test: images(&whole, "t10k")?,
            source: whole.display().to_string(),
        });
    }
    let mut train = images(folder.unwrap_or(Path::new(PART)), "t10k")?;
    ensure!(train.len() >= 10_000, "{} images are too few to train and test on", train.len());
    let test = train.split_off(8000);
    let source = folder.map_or_else(|| "examples/data/fashion-mnist".to_owned(), |f| f.display().to_string());
    Ok(Data { train, test, source })
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    [folder.join(format!("{name}.gz")), folder.join(name)].into_iter().find(|p| p.exists())
}

fn images(folder: &Path, part: &str) -> Result<Images> {
    let pixels = idx(folder, &format!("{part}-images-idx3-ubyte"))?;
    let labels = idx(folder, &format!("{part}-labels-idx1-ubyte"))?;
    ensure!(pixels.len() == labels.len() * PIXELS, "{}: images and labels differ in number", folder.display());
    ensure!(labels.iter().all(|&l| usize::from(l) < CLASSES), "{}: a label above 9", folder.display());
    Ok(Images {
        pixels: pixels.iter().map(|&p| f32::from(p) / 255.0).collect(),
        labels: labels.iter().map(|&l| u32::from(l)).collect(),
    })
}

/// The elements of an IDX file of bytes: a magic number 0, 0, 8, dimensions; the dimensions, big-endian; the data.
fn idx(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let path = find(folder, name).with_context(|| format!("no {name} or {name}.gz in {}", folder.display()))?;
    let mut bytes = Vec::new();
    let mut file = File::open(&path).with_context(|| format!("can not open {}", path.display()))?;
    if path.extension().is_some_and(|e| e == "gz") {
        GzDecoder::new(file).read_to_end(&mut bytes)
    } else {
        file.read_to_end(&mut bytes)
    }
    .with_context(|| format!("can not read {}", path.display()))?;
    ensure!(bytes.len() >= 4 && bytes[..3] == [0, 0, 8], "{} is not an IDX file of bytes", path.display());
    let start = 4 + 4 * usize::from(bytes[3]);
    ensure!(bytes.len() >= start, "{} is cut short", path.display());
    let dims = bytes[4..start].chunks_exact(4).map(|d| u32::from_be_bytes([d[0], d[1], d[2], d[3]]) as usize);
    ensure!(dims.product::<usize>() == bytes.len() - start, "{} is cut short", path.display());
    Ok(bytes.split_off(start))
}
