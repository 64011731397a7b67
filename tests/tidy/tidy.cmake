# The house rules, and proof that the checker still finds what it must.
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND AND NOT SANITIZE)
  add_test(NAME tidy COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/tidy.py
    --headers ${CMAKE_C_COMPILER} ${CMAKE_SOURCE_DIR})
  add_test(NAME tidy_finds_planted_faults COMMAND ${Python3_EXECUTABLE}
    ${CMAKE_CURRENT_LIST_DIR}/tidy_selftest.py)
  add_test(NAME counted COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/counted.py
    ${CMAKE_SOURCE_DIR})
  add_test(NAME counted_finds_planted_faults COMMAND ${Python3_EXECUTABLE}
    ${CMAKE_CURRENT_LIST_DIR}/counted_selftest.py)
  find_program(CLANG_FORMAT NAMES clang-format clang-format-14)
  if(CLANG_FORMAT)
    add_test(NAME format COMMAND sh -c
      "git ls-files '*.c' '*.h' | xargs '${CLANG_FORMAT}' --dry-run --Werror"
      WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  endif()
endif()
