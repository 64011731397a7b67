include_guard(GLOBAL)

# fuzz_target(NAME SOURCE CORPUS rooms...): with WITH_FUZZ a libFuzzer program (clang), without it a
# program that replays the corpus as the ctest entry replay_NAME. Paths are relative to tests/.
function(fuzz_target name source corpus)
  if(WITH_FUZZ)
    add_executable(${name} ${CMAKE_SOURCE_DIR}/tests/${source})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    # The rooms under test need libFuzzer's instrumentation too.
    foreach(room IN ITEMS base ${ARGN})
      target_compile_options(${room} PRIVATE -fsanitize=fuzzer-no-link)
    endforeach()
  else()
    add_executable(${name} ${CMAKE_SOURCE_DIR}/tests/${source}
      ${CMAKE_SOURCE_DIR}/tests/fuzz/replay_main.c)
    add_test(NAME replay_${name} COMMAND ${name} ${CMAKE_SOURCE_DIR}/tests/${corpus})
    set_tests_properties(replay_${name} PROPERTIES TIMEOUT 300)
  endif()
  target_link_libraries(${name} PRIVATE ${ARGN})
endfunction()
