# The server room behind a real gRPC client: echo_server stands in for the daemon.
if(WITH_SERVER)
  add_executable(echo_server ${CMAKE_CURRENT_LIST_DIR}/echo_server.c
    ${CMAKE_CURRENT_LIST_DIR}/echo_engine.c)
  target_include_directories(echo_server PRIVATE ${CMAKE_CURRENT_LIST_DIR})
  target_link_libraries(echo_server PRIVATE server)
endif()
