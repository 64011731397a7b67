include(${CMAKE_CURRENT_LIST_DIR}/fuzz_target.cmake)
fuzz_target(fuzz_adapter_config fuzz/fuzz_adapter_config.c fuzz/corpus/fuzz_adapter_config adapters)
