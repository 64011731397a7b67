# tests/gpu.sh: on the emulated device all its parts but the sanitizer run; where there is no device it
# must not pass.
if(TARGET kern_cuda AND NOT SANITIZE)
  add_executable(gpu_look gpu/look.c)
  target_link_libraries(gpu_look PRIVATE kern_cuda)
  add_test(NAME gpu_sh COMMAND ${CMAKE_SOURCE_DIR}/tests/gpu/gpu_sh_test.sh ${CMAKE_BINARY_DIR})
  set_tests_properties(gpu_sh PROPERTIES TIMEOUT 3600 LABELS emulated)
endif()
