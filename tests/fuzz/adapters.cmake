include(${CMAKE_CURRENT_LIST_DIR}/fuzz_target.cmake)
fuzz_target(fuzz_adapter_config fuzz/fuzz_adapter_config.c fuzz/corpus/fuzz_adapter_config adapters)
fuzz_target(fuzz_s0 fuzz/fuzz_s0.c fuzz/corpus/fuzz_s0 adapters)
