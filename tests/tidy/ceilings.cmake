# Kernels compiled by nvcc stay within the committed ceilings, and the checker finds one that does not.
find_package(Python3 COMPONENTS Interpreter)
if(Python3_FOUND AND TARGET kern_cuda AND NOT TARGET kern_emu)
  get_target_property(nvcc_version kern_cuda NVCC_VERSION)
  add_test(NAME ceilings COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/ceilings.py
    ${CMAKE_CURRENT_LIST_DIR}/ceilings.txt
    ${CMAKE_BINARY_DIR}/kernels/cuda/CMakeFiles/kern_cuda.dir ${nvcc_version})
endif()
if(Python3_FOUND AND NOT SANITIZE)
  add_test(NAME ceilings_finds_planted_faults COMMAND ${Python3_EXECUTABLE}
    ${CMAKE_CURRENT_LIST_DIR}/ceilings_selftest.py)
endif()
