include(${CMAKE_CURRENT_LIST_DIR}/fuzz_target.cmake)
fuzz_target(fuzz_safetensors fuzz/fuzz_safetensors.c fuzz/corpus/fuzz_safetensors model)
fuzz_target(fuzz_config fuzz/fuzz_config.c fuzz/corpus/fuzz_config model)
