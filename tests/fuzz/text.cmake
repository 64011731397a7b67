include(${CMAKE_CURRENT_LIST_DIR}/fuzz_target.cmake)
fuzz_target(fuzz_tokenizer fuzz/fuzz_tokenizer.c fuzz/corpus/fuzz_tokenizer text)
