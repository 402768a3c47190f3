//! JPEG files, whole or not at all.
//!
//! The decoder is asked to be strict, and the file's own structure is checked first: decoders fill what a
//! broken download lacks with grey, and a model would learn it. Where a marker follows too early, even a strict
//! decoder reads zeros on and on, which are codes; so it is given the file with a wall of ones before such markers: ones are no code.

use std::collections::BTreeMap;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Pixels of a JPEG before its orientation is applied.
#[derive(Debug)]
pub(super) struct Jpeg {
    pub(super) width: usize,
    pub(super) height: usize,
    /// `[height, width, 3]`.
    pub(super) rgb: Vec<u8>,
}

/// What the headers say.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) exif: Option<Vec<u8>>,
}

fn decoder(bytes: &[u8]) -> JpegDecoder<ZCursor<&[u8]>> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        // The limit in pixels is judged before; these would refuse panoramas.
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    JpegDecoder::new_with_options(ZCursor::new(bytes), options)
}

/// Reads sizes and EXIF data, no pixels.
pub(super) fn header(bytes: &[u8]) -> Result<Header, String> {
    let mut decoder = decoder(bytes);
    decoder.decode_headers().map_err(|error| reason(&error))?;
    let info = decoder.info().ok_or("it has no frame header")?;
    Ok(Header {
        width: usize::from(info.width),
        height: usize::from(info.height),
        exif: decoder.exif().cloned(),
    })
}

/// Decodes baseline and progressive files; grey, `YCbCr`, RGB, CMYK and YCCK (both by Adobe's convention, in
/// which 255 means no ink, as every program that writes them does).
pub(super) fn decode(bytes: &[u8]) -> Result<Jpeg, String> {
    let walled = Walled::new(bytes)?;
    let mut decoder = decoder(&walled.bytes);
    let rgb = decoder.decode().map_err(|error| reason(&error))?;
    if walled.has_holes && walled.is_longer_than_its_picture() {
        return Err(format!(
            "its data are damaged: they have long runs of zeros and go on where the picture ends; {AGAIN}"
        ));
    }
    let info = decoder.info().ok_or("it has no frame header")?;
    Ok(Jpeg {
        width: usize::from(info.width),
        height: usize::from(info.height),
        rgb,
    })
}

fn reason(error: &zune_jpeg::errors::DecodeErrors) -> String {
    // The decoder's own text comes with a debugging prefix on some variants.
    let text = format!("{error:?}");
    format!("it is a damaged or unusual JPEG ({}); {AGAIN}", text.trim())
}

const AGAIN: &str = "copy or download the file again";

/// Ones, as coded data: longer than what may be read before the next code begins.
const WALL: [u8; 16] = [
    0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0,
];

/// So many zeros in a row are rare in coded data, and what damaged disks and downloads leave.
const HOLE: usize = 16;

/// A JPEG up to the marker that ends it, with walls where coded data end.
struct Walled {
    bytes: Vec<u8>,
    /// Bytes of coded data before the last wall.
    last: usize,
    has_holes: bool,
}

impl Walled {
    /// Walks over the segments until the marker that ends the image.
    ///
    /// `FF 00` belongs to the coded data; thumbnails lie inside segments, which are skipped by their length.
    fn new(bytes: &[u8]) -> Result<Self, String> {
        let cut = |at: usize| {
            Err(format!(
                "it is cut off: {at} of its bytes can be used and the marker that ends a JPEG is missing; {AGAIN}"
            ))
        };
        let mut walled = Self {
            bytes: Vec::with_capacity(bytes.len() + WALL.len()),
            last: 0,
            has_holes: false,
        };
        let mut scans = Scans::default();
        let (mut at, mut copied) = (2, 0);
        let mut in_scan = false;
        loop {
            let Some(found) = bytes.get(at..).and_then(find_marker) else {
                return cut(bytes.len());
            };
            let (marker, coded) = (bytes[at + found - 1], &bytes[at..at + found - 2]);
            at += found;
            if in_scan && matches!(marker, 0xD0..=0xD7 | 0xD9) {
                walled.bytes.extend(&bytes[copied..at - 2]);
                walled.bytes.extend(WALL);
                copied = at - 2;
                walled.last = coded.len();
            }
            walled.has_holes |=
                in_scan && coded.split(|byte| *byte != 0).any(|run| run.len() >= HOLE);
            match marker {
                0xD9 => {
                    walled.bytes.extend(&bytes[copied..at]);
                    return scans.check().map(|()| walled);
                }
                0xD0..=0xD8 | 0x01 => {}
                _ => {
                    let Some(length) = bytes.get(at..at + 2) else {
                        return cut(at);
                    };
                    let length = usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
                    scans.note(marker, bytes.get(at + 2..at + length).unwrap_or_default());
                    at += length;
                    in_scan = marker == 0xDA;
                }
            }
        }
    }

    /// Whether the picture is whole without the last bytes: then something before them is missing.
    fn is_longer_than_its_picture(&self) -> bool {
        // A coefficient takes eleven bits at most beyond its code, so that the last four bytes have a code.
        let cut = self.last.min(4);
        let end = self.bytes.len() - 2 - WALL.len();
        let shorter = [&self.bytes[..end - cut], &self.bytes[end..]].concat();
        decoder(&shorter).decode().is_ok()
    }
}

/// What the scans of a file have told of each component.
#[derive(Default)]
struct Scans {
    components: Vec<u8>,
    /// Bits that each coefficient of each component still lacks.
    missing_bits: BTreeMap<(u8, u8), u8>,
}

impl Scans {
    fn note(&mut self, marker: u8, content: &[u8]) {
        match (marker, content) {
            (0xC0..=0xC2, [_, _, _, _, _, _, components @ ..]) => {
                self.components = components.chunks(3).map(|one| one[0]).collect();
            }
            (0xDA, [count, rest @ ..]) => {
                let ids = rest.chunks(2).take(usize::from(*count)).map(|one| one[0]);
                let [first, last, bits] = match rest.get(2 * usize::from(*count)..) {
                    Some([first, last, bits, ..]) => [*first, (*last).min(63), bits & 15],
                    _ => return,
                };
                for id in ids {
                    let coefficients = (first..=last).map(|coefficient| (id, coefficient));
                    self.missing_bits
                        .extend(coefficients.map(|one| (one, bits)));
                }
            }
            _ => {}
        }
    }

    /// Files that send a picture in several passes may end between two of them.
    fn check(&self) -> Result<(), String> {
        let seen = |id: &u8| self.missing_bits.contains_key(&(*id, 0));
        if self.components.iter().all(seen) && self.missing_bits.values().all(|bits| *bits == 0) {
            return Ok(());
        }
        Err(format!(
            "it is cut off: it ends before its last passes; {AGAIN}"
        ))
    }
}

/// Bytes up to and including the code of the next marker.
fn find_marker(rest: &[u8]) -> Option<usize> {
    let mut previous = 0;
    for (at, byte) in rest.iter().enumerate() {
        if previous == 0xFF && *byte != 0xFF && *byte != 0 {
            return Some(at + 1);
        }
        previous = *byte;
    }
    None
}
