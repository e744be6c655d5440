//! What x86-64 has instructions for: copies of bytes that somebody may be
//! writing, and words to the cache.
//!
//! The compiler knows nothing of what assembly reads, so bytes that change
//! meanwhile are no race for it; the processor copies some value of each.

use std::arch::asm;

use super::LINE;

/// Bytes from which on a copy is one instruction, which is the quickest once it
/// has begun.
const LONG_COPY: usize = 4096;

/// Copies `len` bytes, a line at least, which somebody may be writing.
///
/// Word by word, a frame of 1 KiB took twice as long through the ring on one
/// core (400 against 180 ns), and a fifth longer from core to core and back; by
/// registers of 32 bytes rather than 16, a stream of such frames is 5 to 7 %
/// faster.
///
/// # Safety
///
/// Both ends are valid for `len` bytes, and do not overlap.
#[inline]
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    assert!(len >= LINE, "{len} bytes are no line");
    if len >= LONG_COPY {
        // SAFETY: what the caller promises is what is asked for.
        unsafe { copy_long(from, to, len) };
    } else if is_x86_feature_detected!("avx") {
        // SAFETY: likewise, and the registers are there.
        unsafe { copy_wide(from, to, len) };
    } else {
        // SAFETY: likewise.
        unsafe { copy_lines(from, to, len) };
    }
}

/// # Safety
///
/// As for [`copy`].
#[inline]
unsafe fn copy_long(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the bytes are valid, says the caller. They may change, and others
    // than this program's may: no `nomem`. The direction flag is clear on entry to
    // assembly, as Rust has it.
    unsafe {
        asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// # Safety
///
/// As for [`copy`], on a processor with AVX.
#[inline]
unsafe fn copy_wide(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: as for `copy_long`; each turn of the loop copies one line, of which
    // there is at least one, and then the last `LINE` bytes are copied, whether or
    // not some of them were. Whatever is not said to be clobbered is left alone:
    // `vzeroupper` clears no more than the upper halves of these registers.
    unsafe {
        asm!(
            "2:",
            "vmovdqu ymm0, [{from}]",
            "vmovdqu ymm1, [{from} + 32]",
            "vmovdqu [{to}], ymm0",
            "vmovdqu [{to} + 32], ymm1",
            "add {from}, 64",
            "add {to}, 64",
            "dec {lines}",
            "jnz 2b",
            "vmovdqu ymm0, [{from} + {rest} - 64]",
            "vmovdqu ymm1, [{from} + {rest} - 32]",
            "vmovdqu [{to} + {rest} - 64], ymm0",
            "vmovdqu [{to} + {rest} - 32], ymm1",
            "vzeroupper",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            lines = inout(reg) len / LINE => _,
            rest = in(reg) len % LINE,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack),
        );
    }
}

/// # Safety
///
/// As for [`copy`].
#[inline]
unsafe fn copy_lines(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: as for `copy_wide`.
    unsafe {
        asm!(
            "2:",
            "movdqu {a}, [{from}]",
            "movdqu {b}, [{from} + 16]",
            "movdqu {c}, [{from} + 32]",
            "movdqu {d}, [{from} + 48]",
            "movdqu [{to}], {a}",
            "movdqu [{to} + 16], {b}",
            "movdqu [{to} + 32], {c}",
            "movdqu [{to} + 48], {d}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {lines}",
            "jnz 2b",
            "movdqu {a}, [{from} + {rest} - 64]",
            "movdqu {b}, [{from} + {rest} - 48]",
            "movdqu {c}, [{from} + {rest} - 32]",
            "movdqu {d}, [{from} + {rest} - 16]",
            "movdqu [{to} + {rest} - 64], {a}",
            "movdqu [{to} + {rest} - 48], {b}",
            "movdqu [{to} + {rest} - 32], {c}",
            "movdqu [{to} + {rest} - 16], {d}",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            lines = inout(reg) len / LINE => _,
            rest = in(reg) len % LINE,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
}

/// Asks for lines that will be read soon, without waiting for them. It is a hint,
/// for which any address will do.
#[inline]
pub(super) fn prefetch(begin: *const u8, len: usize) {
    for offset in (0..len).step_by(LINE) {
        let line = begin.wrapping_add(offset);
        // SAFETY: nothing is read or written, and no address is wrong.
        unsafe {
            asm!("prefetcht0 byte ptr [{}]", in(reg) line, options(nostack, preserves_flags))
        };
    }
}

/// Asks for lines that will be written soon, likewise. Processors without the
/// instruction take it for none.
#[inline]
pub(super) fn prefetch_to_store(begin: *const u8, len: usize) {
    for offset in (0..len).step_by(LINE) {
        let line = begin.wrapping_add(offset);
        // SAFETY: nothing is read or written, and no address is wrong.
        unsafe { asm!("prefetchw byte ptr [{}]", in(reg) line, options(nostack, preserves_flags)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_every_length_and_alignment_are_whole_and_touch_nothing_else() {
        let from: Vec<u8> = (0..=u8::MAX).cycle().take(LONG_COPY + 200).collect();
        let ways = [copy as unsafe fn(_, _, _), copy_lines, copy_wide, copy_long];
        let lengths = (LINE..4 * LINE).chain(LONG_COPY - 3..LONG_COPY + 70);
        for (len, way) in lengths.flat_map(|len| ways.map(|way| (len, way))) {
            if way as usize == copy_wide as *const () as usize && !is_x86_feature_detected!("avx") {
                continue;
            }
            let (skew, begin) = (len % 7, len % 61);
            let mut to = vec![0xaa; begin + len + LINE];
            // SAFETY: so many bytes are there in either, checked by `get`.
            unsafe {
                let from = from.get(skew..skew + len).unwrap().as_ptr();
                way(
                    from,
                    to.get_mut(begin..begin + len).unwrap().as_mut_ptr(),
                    len,
                );
            }
            assert_eq!(to[begin..begin + len], from[skew..skew + len], "{len}");
            let others = to[..begin].iter().chain(&to[begin + len..]);
            assert!(others.copied().all(|byte| byte == 0xaa), "{len}");
        }
    }
}
