//! Sums of products of pairs of 16-bit integers, by the instructions that this processor has for them:
//! AVX-512 VNNI, AVX-512 or AVX2. Found at run time; without any of them there is no [`Pairs`], and the
//! products are computed in f32. Nothing here reads or keeps memory.

use pulp::Simd;

/// Proof that this processor has integer products, and which.
#[derive(Clone, Copy, Debug)]
pub(super) enum Available {
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
    #[cfg(target_arch = "x86_64")]
    Vnni(x86::Vnni),
}

/// What a kernel is written over: vectors of 32-bit words, of which each is also two signed 16-bit numbers.
pub(super) trait Pairs: Copy {
    type S: Simd;
    fn simd(self) -> Self::S;
    /// In every word, `sum + a.lower * b.lower + a.upper * b.upper`.
    fn dot(self, sum: Words<Self>, a: Words<Self>, b: Words<Self>) -> Words<Self>;
    /// Signed words as the nearest f32.
    fn floats(self, words: Words<Self>) -> <Self::S as Simd>::f32s;
}

pub(super) type Words<P> = <<P as Pairs>::S as Simd>::u32s;

/// Something to run with whatever there is.
pub(super) trait WithPairs {
    fn with_pairs<P: Pairs>(self, pairs: P);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Available, Pairs, WithPairs};
    use crate::compute::simd::{self, Level};
    use pulp::x86::{V3, V4};
    use pulp::{Arch, NullaryFnOnce, Simd, cast};
    use std::arch::asm;
    use std::arch::x86_64::__m512i;

    impl Available {
        /// The best of what there is, within the process's limit.
        pub(in super::super) fn best() -> Option<Self> {
            match simd::arch() {
                Arch::V4(simd) => Some(match Instructions::try_new() {
                    Some(instructions) if simd::level() == Level::Best => {
                        Available::Vnni(Vnni { simd, instructions })
                    }
                    _ => Available::Avx512(Avx512(simd)),
                }),
                Arch::V3(simd) => Some(Available::Avx2(Avx2(simd))),
                _ => None,
            }
        }

        /// Runs `op` compiled for it.
        pub(in super::super) fn run(self, op: impl WithPairs) {
            match self {
                Available::Avx2(pairs) => pairs.0.vectorize(Call(op, pairs)),
                Available::Avx512(pairs) => pairs.0.vectorize(Call(op, pairs)),
                Available::Vnni(pairs) => pairs.instructions.vectorize(Call(op, pairs)),
            }
        }
    }

    struct Call<Op, P>(Op, P);

    impl<Op: WithPairs, P: Pairs> NullaryFnOnce for Call<Op, P> {
        type Output = ();
        #[inline(always)]
        fn call(self) {
            self.0.with_pairs(self.1);
        }
    }

    /// 256 bits.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Avx2(V3);

    impl Pairs for Avx2 {
        type S = V3;
        #[inline(always)]
        fn simd(self) -> V3 {
            self.0
        }
        #[inline(always)]
        fn dot(
            self,
            sum: <V3 as Simd>::u32s,
            a: <V3 as Simd>::u32s,
            b: <V3 as Simd>::u32s,
        ) -> <V3 as Simd>::u32s {
            let products = self.0.avx2._mm256_madd_epi16(cast!(a), cast!(b));
            self.0.add_u32s(sum, cast!(products))
        }
        #[inline(always)]
        fn floats(self, words: <V3 as Simd>::u32s) -> <V3 as Simd>::f32s {
            cast!(self.0.avx._mm256_cvtepi32_ps(cast!(words)))
        }
    }

    /// 512 bits.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Avx512(V4);

    impl Pairs for Avx512 {
        type S = V4;
        #[inline(always)]
        fn simd(self) -> V4 {
            self.0
        }
        #[inline(always)]
        fn dot(
            self,
            sum: <V4 as Simd>::u32s,
            a: <V4 as Simd>::u32s,
            b: <V4 as Simd>::u32s,
        ) -> <V4 as Simd>::u32s {
            let products = self.0.avx512bw._mm512_madd_epi16(cast!(a), cast!(b));
            self.0.add_u32s(sum, cast!(products))
        }
        #[inline(always)]
        fn floats(self, words: <V4 as Simd>::u32s) -> <V4 as Simd>::f32s {
            cast!(self.0.avx512f._mm512_cvtepi32_ps(cast!(words)))
        }
    }

    pulp::simd_type! {
        /// That which [`V4`] has, and VNNI.
        struct Instructions {
            avx: "avx",
            avx2: "avx2",
            fma: "fma",
            bmi1: "bmi1",
            bmi2: "bmi2",
            lzcnt: "lzcnt",
            avx512f: "avx512f",
            avx512bw: "avx512bw",
            avx512cd: "avx512cd",
            avx512dq: "avx512dq",
            avx512vl: "avx512vl",
            avx512vnni: "avx512vnni",
        }
    }

    /// By name, because the compiler takes its own intrinsic apart into a product and an addition where
    /// sums follow each other, to shorten their chain; with eight rows that costs a sixth of the speed.
    #[target_feature(enable = "avx512f,avx512vnni")]
    #[inline]
    fn dpwssd(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: it reads and writes registers only, and its features are this function's.
        unsafe {
            asm!(
                "vpdpwssd {sum}, {a}, {b}",
                sum = inout(zmm_reg) sum,
                a = in(zmm_reg) a,
                b = in(zmm_reg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }

    /// 512 bits, a product and its sum in one instruction.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Vnni {
        simd: V4,
        instructions: Instructions,
    }

    impl Pairs for Vnni {
        type S = V4;
        #[inline(always)]
        fn simd(self) -> V4 {
            self.simd
        }
        #[inline(always)]
        fn dot(
            self,
            sum: <V4 as Simd>::u32s,
            a: <V4 as Simd>::u32s,
            b: <V4 as Simd>::u32s,
        ) -> <V4 as Simd>::u32s {
            // SAFETY: the instruction is one of `Instructions`, which exist only where it does.
            cast!(unsafe { dpwssd(cast!(sum), cast!(a), cast!(b)) })
        }
        #[inline(always)]
        fn floats(self, words: <V4 as Simd>::u32s) -> <V4 as Simd>::f32s {
            Avx512(self.simd).floats(words)
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Available {
    /// None: this processor's vectors are used for f32 only.
    pub(super) fn best() -> Option<Self> {
        None
    }

    pub(super) fn run(self, _: impl WithPairs) {
        match self {}
    }
}
