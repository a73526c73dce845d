"""Which instructions of the processor the libraries may use: the environment variables that say so.

Libraries choose their code by the processor, and sums in another order have other last bits, which training amplifies.
study/engine.py sets the variables before a job's Python starts (the libraries read them when they are loaded);
arms/model/cpu.py checks them.
"""

AVX512 = "AVX512F AVX512CD AVX512_KNL AVX512_KNM AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": AVX512,
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
# Environment variables of each value of the configuration's cpu_instructions.
INSTRUCTIONS: dict[str, dict[str, str]] = {
    "native": {},
    # Bytes are equal on x86-64 processors of one vendor: MKL takes other code on Intel than on AMD.
    "avx2": AVX2,
    # Bytes are equal on all x86-64 processors with AVX2. MKL's matrix products take 2.5 times as long.
    "portable": {**AVX2, "MKL_CBWR": "COMPATIBLE"},
}
